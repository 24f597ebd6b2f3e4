"""A guest book with Flask and sqlite: `graceserve --chdir examples/flask_app guestbook:app`.

    /         the last entries, and a form
    /visit    writes a row and reads the table (a GET, to be easy to put under load)
    /version  which release answers

The database is a file outside of the release (`GUESTBOOK_DB`), because it outlives releases.
"""

import os
import sqlite3
import sys

from flask import Flask, Response, g, jsonify, redirect, render_template_string, request

HERE = os.path.dirname(os.path.abspath(__file__))
RELEASE = os.path.basename(HERE)
DATABASE = os.environ.get("GUESTBOOK_DB", os.path.join(HERE, "guestbook.sqlite3"))

SCHEMA = "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, name TEXT NOT NULL, text TEXT NOT NULL)"
PAGE = """<!doctype html><title>Guest book</title><h1>Guest book</h1>
<form method="post">
<input name="name" placeholder="name"><input name="text" placeholder="text"><button>Sign</button>
</form>
<ul>{% for entry in entries %}<li><b>{{ entry.name }}</b>: {{ entry.text }}</li>{% endfor %}</ul>
<p>{{ count }} entries, release {{ release }}</p>"""

app = Flask(__name__)


def database() -> sqlite3.Connection:
    """This request's connection."""
    if "database" not in g:
        g.database = sqlite3.connect(DATABASE, timeout=20)
        g.database.row_factory = sqlite3.Row
        g.database.execute("PRAGMA synchronous = NORMAL")
    connection: sqlite3.Connection = g.database
    return connection


@app.teardown_appcontext
def close(error: BaseException | None) -> None:
    """Close the request's connection."""
    if "database" in g:
        g.pop("database").close()


@app.after_request
def name_release(response: Response) -> Response:
    """Say in each response which release made it."""
    response.headers["X-Release"] = RELEASE
    return response


def sign(name: str, text: str) -> int:
    """Add an entry; how many there are then."""
    with database() as connection:
        connection.execute("INSERT INTO entry (name, text) VALUES (?, ?)", (name, text))
    count: int = connection.execute("SELECT count(*) FROM entry").fetchone()[0]
    return count


@app.get("/")
def book() -> str:
    """The page."""
    entries = database().execute("SELECT name, text FROM entry ORDER BY id DESC LIMIT 10").fetchall()
    count = database().execute("SELECT count(*) FROM entry").fetchone()[0]
    return render_template_string(PAGE, entries=entries, count=count, release=RELEASE)


@app.post("/")
def add() -> Response:
    """The form."""
    sign(request.form["name"][:50], request.form["text"][:500])
    return redirect("/")  # type: ignore[return-value]


@app.get("/visit")
def visit() -> Response:
    """One more row."""
    return jsonify(entries=sign("visitor", "was here"), release=RELEASE)


@app.get("/version")
def version() -> Response:
    """Which release, and which Python."""
    return jsonify(release=RELEASE, python=sys.version.split()[0], executable=sys.executable)


with sqlite3.connect(DATABASE, timeout=20) as setup:
    setup.execute("PRAGMA journal_mode = WAL")
    setup.execute(SCHEMA)
setup.close()
