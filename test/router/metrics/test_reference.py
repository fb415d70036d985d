"""The reference of metrics lists what a running router measures."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"


async def test_the_reference_lists_every_metric_with_its_labels(start):
    cluster = await start(prefill=1, decode=1, policy="prompt_tree")
    async with cluster.session.post(cluster.url + "/generate", json={"input_ids": [1, 2]}) as response:
        assert response.status == 200
    async with cluster.session.get(cluster.url + "/metrics") as response:
        families = list(text_string_to_metric_families(await response.text()))
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(families) > 15
    for family in families:
        name = family.name.removeprefix("memserve:router_")
        (row,) = [row for row in rows if re.search(rf"`{name}(_total)?`", row.split("|")[1])]
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels <= set(re.findall(r"`(\w+)`", row.split("|")[2])), row
