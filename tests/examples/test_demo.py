"""examples/demo.py: a demonstration that is a check as well."""

import asyncio

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.examples import run_example
from tests.services import Service, free_port

STEPS = 13


def test_every_step_goes_as_expected_however_often_it_is_run(service: Service) -> None:
    for _ in range(2):
        demo = run_example("demo.py", "--url", service.url)
        assert demo.returncode == 0, demo.stdout
        lines = demo.stdout.splitlines()
        expected = [line.split(maxsplit=1)[1] for line in lines if line.startswith("  expected")]
        assert expected == [line.split(maxsplit=1)[1] for line in lines if line.startswith("  got")]
        assert len(expected) == STEPS
        assert lines[-1] == "Every step went as expected."


async def test_a_step_that_gets_something_else_makes_it_fail(service: Service, http: aiohttp.ClientSession) -> None:
    async def without_headers(request: web.Request) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with http.request(request.method, request.path_qs, data=await request.read(), headers=headers) as answer:
            return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

    proxy = web.Application()
    proxy.router.add_route("*", "/{path:.*}", without_headers)
    async with TestServer(proxy) as server:
        demo = await asyncio.to_thread(run_example, "demo.py", "--url", str(server.make_url("")))
    assert demo.returncode == 1
    assert "  got       recorded: 3 x 0.04 = 0.12; recorded: 3 x 0.04 = 0.12" in demo.stdout
    assert demo.stdout.endswith("Not as expected: 1 of the steps.\n")


def test_where_there_is_no_service_it_says_so_in_one_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    demo = run_example("demo.py", "--url", url)
    assert (demo.returncode, demo.stdout) == (1, "")
    assert demo.stderr.count("\n") == 1
    assert url in demo.stderr
    assert "billing-service serve" in demo.stderr
