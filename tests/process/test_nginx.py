"""The main job: Django and Flask behind a real nginx with kept connections, reloaded under load, nothing lost."""

import re
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.process import web
from tests.process.conftest import Serve
from tests.process.load import Load, lost_nothing
from tests.process.nginx import Nginx
from tests.process.procs import Nursery
from tests.process.releases import Release, Site
from tests.process.server import Server, script_launch
from tests.process.stock import Stock, environ

APPS = {"django": ("django_app", "project.wsgi"), "flask": ("flask_app", "guestbook:app")}
HUPS = 4
StartNginx = Callable[[str], Nginx]


def example(
    site: Site, serve: Serve, stock: Stock, name: str, address: str, *options: str
) -> tuple[Server, list[Release]]:
    """Two releases of an example app; the first one served."""
    folder, app = APPS[name]
    releases = [site.example(number, folder, stock) for number in ("41", "42")]
    env = {"GUESTBOOK_DB": site.path("guestbook.sqlite3"), "GUESTBOOK_SECRET_KEY": "the same in both releases"}
    if name == "django":
        migrate(releases[0], env)
    site.flip(releases[0])
    return serve(script_launch(site.current, address, *options, app=app, **env)).wait_ready(60), releases


def migrate(release: Release, env: dict[str, str]) -> None:
    """Make the database, and a user who may log in."""
    user = ["createsuperuser", "--noinput", "--username", "ada", "--email", "ada@example.com"]
    for argv in (["migrate", "--verbosity", "0"], user):
        subprocess.run(
            [release.python, "manage.py", *argv], cwd=release.directory, check=True, capture_output=True,
            env={**environ(), **env, "DJANGO_SUPERUSER_PASSWORD": "lovelace"},
        )  # fmt: skip


def address_of(site: Site, kind: str) -> str:
    """Where nginx finds the server."""
    return web.free_address() if kind == "tcp" else f"unix:{site.path('app.sock')}"


@pytest.mark.parametrize(("name", "kind"), [("django", "unix"), ("flask", "tcp")])
def test_hups_behind_nginx(  # noqa: PLR0917 - fixtures
    site: Site, serve: Serve, framework_stock: Stock, nginx: StartNginx, nursery: Nursery, name: str, kind: str
) -> None:
    """32 clients, two releases with a venv each: no request failed, nothing in nginx's error log, the PID unchanged."""
    server, releases = example(site, serve, framework_stock, name, address_of(site, kind))
    proxy = nginx(server.address)
    pid = server.status()["pid"]
    with Load(nursery, proxy.address, keepalive=24, oneshot=8, pause_s=0.08, paths=["/", "/visit", "/version"]) as load:
        for number in range(HUPS):
            generation = int(server.serving()["generation"])
            site.flip(releases[(number + 1) % 2])
            server.send(signal.SIGHUP)
            server.wait_whole(generation + 1, 60)
        outcome = load.stop()
    lost_nothing(outcome)
    assert set(outcome.releases) == {"41", "42"}
    assert proxy.losses() == []
    assert server.status()["pid"] == pid == server.pid


def test_a_login_over_a_reload(site: Site, serve: Serve, framework_stock: Stock, nginx: StartNginx) -> None:
    """Django's admin: the login page comes from 41 with its CSRF token, the form goes to 42, and the session holds."""
    server, releases = example(site, serve, framework_stock, "django", address_of(site, "unix"), "--threads", "4")
    browser = web.Connection(nginx(server.address).address)
    page = browser.ask("/admin/login/")
    assert page.status == 200 and page.headers["x-release"] == "41"
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token is not None
    cookie = page.headers["set-cookie"].split(";")[0]
    site.flip(releases[1])
    server.reload_ok()
    form = f"csrfmiddlewaretoken={token[1]}&username=ada&password=lovelace&next=/admin/".encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie}
    answer = browser.ask("/admin/login/", "POST", form, kind)
    assert (answer.status, answer.headers["x-release"]) == (302, "42"), answer
    session = re.search(r"sessionid=[^;]+", answer.headers["set-cookie"])
    assert session is not None
    inside = browser.ask("/admin/", headers={"Cookie": session[0]})
    assert inside.status == 200 and "ada" in inside.text.lower()
    refused = browser.ask("/admin/login/", "POST", form.replace(token[1].encode(), b"x" * 64), kind)
    assert refused.status == 403
    browser.close()
