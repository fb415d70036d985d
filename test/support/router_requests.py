"""What tests of the router send to it. A cluster has `url` and an aiohttp `session`."""


async def post(cluster, body, path="/generate", **headers):
    """Status and body of the answer."""
    async with cluster.session.post(cluster.url + path, json=body, headers=headers) as response:
        return response.status, await response.read()
