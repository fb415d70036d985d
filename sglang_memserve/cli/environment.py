"""The environment variables that MemServe reads; any other MEMSERVE_* variable is an error."""

from collections.abc import Mapping

from router.config import flags as router_flags
from router.config.sources import check_variables
from sglang_memserve import options
from sglang_memserve.cli.address import ADMIN_KEY_VARIABLES, CA_VARIABLE, KEY_VARIABLES, URL_VARIABLE
from sglang_memserve.cli.up_config import VARIABLES as UP_VARIABLES
from sglang_memserve.compat import OVERRIDE
from sglang_memserve.launch_server import API_KEY_VARIABLE

PREFIX = "MEMSERVE_"
TABLE = """\
environment (a flag wins over a variable, a variable over a YAML file, that over the default):
  MEMSERVE_URL              the router that status, doctor, explain, chat and bench ask
  MEMSERVE_API_KEY          the API key: up sets it for the whole cluster, clients present it
  MEMSERVE_ADMIN_API_KEY    the admin key: up sets it for its router, status, doctor and explain present it
  MEMSERVE_CA_CERT_PATHS    CA certificates by which these commands check an https router
  MEMSERVE_PORT, ...        settings of `memserve up`: each of its flags
  MEMSERVE_ROUTER_PORT, ... settings of the router: each of its flags
  MEMSERVE_ROUTER_API_KEY   the key that a router of its own asks of clients (also read by clients there)
  MEMSERVE_ROUTER_ADMIN_API_KEY
                            the key that alone opens what administers such a router
  MEMSERVE_ROUTER_WORKER_API_KEY
                            the key that a router presents to instances
  MEMSERVE_INSTANCE_API_KEY the key that an instance asks for
  MEMSERVE_CLUSTER_KEY_FILE, MEMSERVE_CLUSTER_KEY
                            the cluster's key, in a file or as it is: instances, registries and routers
  MEMSERVE_INSECURE=1       listen beyond the loopback without a key
  MEMSERVE_CACHING, ...     options of an instance: each --memserve-* flag
  MEMSERVE_ALLOW_UNTESTED_SGLANG=1
                            serve with a version of SGLang that MemServe is not tested with"""


def known() -> list[str]:
    """Every variable that something here reads."""
    return [
        URL_VARIABLE,
        CA_VARIABLE,
        *KEY_VARIABLES,
        *ADMIN_KEY_VARIABLES,
        *UP_VARIABLES.values(),
        *router_flags.VARIABLES.values(),
        *options.variables(),
        API_KEY_VARIABLE,
        OVERRIDE,
    ]


def check(environ: Mapping[str, str]) -> None:
    """Raises ConfigError for a MEMSERVE_* variable that nothing reads, with the nearest that is read."""
    check_variables(environ, PREFIX, known())
