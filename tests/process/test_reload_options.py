"""--prepare, --warmup, --env-file, --preload, factories, --reload-surge: what may fail or delay a reload on purpose."""

import os

from tests.process.conftest import Boot, Serve
from tests.process.procs import kill
from tests.process.releases import Site
from tests.process.server import Launch, finish, script_launch
from tests.process.waiting import eventually
from tests.process.web import free_address

PREPARE = "echo $PWD > prepared; pwd -P >> prepared; echo said by prepare; exit $(cat prepare_code || echo 0)"
THREAD = """
import threading
threading.Thread(target=threading.Event().wait, name='metrics-pusher', daemon=True).start()
"""
COLD = """
def broken(environ):
    raise RuntimeError('cold')
PAGES['/version'] = broken
"""
FACTORY = """
def create_app(name='x'):
    global RELEASE
    RELEASE = name
    return application
"""
ENV_FILES = ("COLOUR=red\n", "# new\nexport COLOUR='dark blue'\n", "no equals sign\n")


def test_warmup_ok(site: Site, boot: Boot) -> None:
    """Each worker has carried out the warm-up requests before it serves."""
    server = boot("--warmup", "/count", "--warmup", "/count")
    seen: dict[int, int] = {}
    while set(seen) != set(server.worker_pids()):
        facts = server.get("/count").json
        seen.setdefault(facts["pid"], facts["requests"])
    assert set(seen.values()) == {3}


def test_warmup_failing(site: Site, boot: Boot) -> None:
    """A warm-up request with status 500 or an exception fails the reload, and says which."""
    server = boot("--warmup", "/version")
    site.flip(site.release("42", at_end=COLD))
    done = server.reload()
    assert done.code == 1 and "/version" in done.text and "cold" in done.text, done
    assert server.version()["release"] == "41"


def test_prepare(site: Site, boot: Boot) -> None:
    """It runs in the new release's directory, before its app is imported; if it fails, so does the reload."""
    server = boot("--prepare", PREPARE)
    good, bad = site.release("42", "open('prepared').close()"), site.release("43")
    bad.write("prepare_code", "3\n")
    site.flip(good)
    server.reload_ok()
    with open(os.path.join(good.directory, "prepared"), encoding="utf-8") as file:
        assert file.read().split() == [good.directory] * 2
    site.flip(bad)
    done = server.reload()
    assert done.code == 1 and "prepare" in done.text and "3" in done.text, done
    assert "said by prepare" in done.text or "said by prepare" in server.log
    assert server.version()["release"] == "42"


def test_prepare_that_hangs_is_killed_with_its_children(site: Site, boot: Boot) -> None:
    """At the startup timeout, and when a newer reload takes its place."""
    server = boot("--startup-timeout", "1.5", "--prepare", "test ! -e hang || sleep 3600 | sleep 3600")
    hanging = site.release("42")
    hanging.write("hang", "")
    site.flip(hanging)
    done = server.reload()
    assert done.code == 1 and "prepare" in done.text, done
    assert not [proc for proc in server.nursery.left() if "sleep" in proc.title]
    first = server.begin("reload")
    eventually(lambda: [proc for proc in server.nursery.left() if "sleep" in proc.title], what="prepare runs")
    site.flip(site.release("43"))
    assert server.reload().code == 0
    assert finish(first).code == 3
    eventually(lambda: not [proc for proc in server.nursery.left() if "sleep" in proc.title], what="prepare is killed")


def test_env_file_is_read_again(site: Site, boot: Boot) -> None:
    """It is the release's; --env is the same for all; a bad line fails the reload."""
    releases = [site.release(name) for name in ("41", "42", "43")]
    for release, text in zip(releases, ENV_FILES, strict=True):
        release.write("app.env", text)
    site.flip(releases[0])
    server = boot("--env-file", "app.env", "--env", "SHAPE=round")
    assert [server.get(f"/env?{name}").json["value"] for name in ("COLOUR", "SHAPE")] == ["red", "round"]
    site.flip(releases[1])
    server.reload_ok()
    assert [server.get(f"/env?{name}").json["value"] for name in ("COLOUR", "SHAPE")] == ["dark blue", "round"]
    site.flip(releases[2])
    done = server.reload()
    assert done.code == 1 and "app.env" in done.text and "1" in done.text, done
    assert server.version()["release"] == "42"


def test_preload_imports_once_and_hup_brings_fresh_code(site: Site, boot: Boot) -> None:
    server = boot("--preload")
    facts = [server.version() for _ in range(20)]
    assert {row["import_pid"] for row in facts} == {server.template_pid()}
    site.flip(site.release("42"))
    server.reload_ok()
    fact = server.version()
    assert fact["release"] == "42" and fact["import_pid"] == server.template_pid()


def test_without_preload_each_worker_imports(boot: Boot) -> None:
    server = boot()
    fact = server.version()
    assert fact["import_pid"] == fact["pid"]


def test_preload_with_a_thread_says_who_is_to_blame(site: Site, boot: Boot) -> None:
    """A template must have one thread when it forks."""
    server = boot("--preload")
    site.flip(site.release("42", THREAD))
    done = server.reload()
    assert done.code == 1 and "thread" in done.text and "metrics-pusher" in done.text, done
    assert server.version()["release"] == "41"


def test_a_thread_without_preload_is_fine(site: Site, boot: Boot) -> None:
    server = boot()
    site.flip(site.release("42", THREAD))
    server.reload_ok()
    assert server.version()["release"] == "42"
    site.flip(site.release("43"))
    server.reload_ok()
    assert server.version()["release"] == "43"


def test_factory(site: Site, serve: Serve) -> None:
    """`mod:create_app()`, with arguments."""
    site.flip(site.release("41", at_end=FACTORY))
    server = serve(script_launch(site.current, free_address(), app="app:create_app('made')")).wait_ready()
    assert server.version()["release"] == "made"


def test_hostile_import(site: Site, boot: Boot) -> None:
    """A release that changes directory, signals and the umask at import can still be drained and replaced."""
    server = boot()
    code = (
        "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)]; os.umask(0o777); os.chdir('/');"
        " sys.stdout.close(); sys.argv = None"
    )
    site.flip(site.release("42", code))
    server.reload_ok()
    assert server.get("/count").status == 200
    site.flip(site.release("43"))
    server.reload_ok()
    assert server.version()["release"] == "43"
    server.stop()


def test_a_slow_import_that_works_gets_more_time(site: Site, boot: Boot) -> None:
    """Longer than the startup timeout, but it burns CPU all the while."""
    server = boot("--startup-timeout", "0.6", "--workers", "1")
    site.flip(site.release("42", "while time.process_time() < 1.5: pass"))
    server.reload_ok()
    assert server.version()["release"] == "42"


def test_workers_count_from_the_config_changes(site: Site, serve: Serve) -> None:
    """Options that a reload may change, from the new release's own file."""
    releases = [site.release(name) for name in ("41", "42")]
    address = free_address()
    for release, workers in zip(releases, (1, 3), strict=True):
        release.write("graceserve.toml", f'app = "app"\nbind = ["{address}"]\nworkers = {workers}\n')
    site.flip(releases[0])
    launch = Launch((f"{site.current}/venv/bin/graceserve",), site.current, site.current, address=address)
    server = serve(launch).wait_ready()
    assert len(server.worker_pids()) == 1
    site.flip(releases[1])
    server.reload_ok()
    assert len(server.worker_pids()) == 3
    kill(server.worker_pids()[2])
    server.wait_whole()
