"""Installed plugins: found without an import, imported when named, blocked, listed, in conflict, and broken."""

from __future__ import annotations

import json
import sys

import pytest
from helpers import source

from runner.plugins import distributions

KITCHEN = """
    import sys
    from runner import task
    print("kitchen imported", file=sys.stderr)

    @task
    def fry(*, eggs: int = 2):
        print("fried", eggs)

    @task
    def boil():
        print("boiled")
"""
EVENTS = """
    import sys
    from runner import hookimpl
    print("metrics imported", file=sys.stderr)

    @hookimpl
    def runner_event(event):
        print("heard", type(event).__name__, file=sys.stderr)
"""


@pytest.fixture
def site(project, tmp_path):
    """`site(files, tasks)`: a project, and distributions on PYTHONPATH: {"runner-kitchen 1.2": entry points as text}."""
    folder = tmp_path / "site"

    def make(distributions, files, toml='[tasks.x]\ncall = "os:getcwd"\nmode = "thread"\n', **more):
        written = {f"site/{name}": content for name, content in files.items()}
        for name, points in distributions.items():
            title, _, version = name.partition(" ")
            info = f"site/{title.replace('-', '_')}-{version}.dist-info"
            written[f"{info}/METADATA"] = (
                f"Metadata-Version: 2.1\nName: {title}\nVersion: {version}\nSummary: Of {title}.\n"
            )
            written[f"{info}/entry_points.txt"] = source(points)
        made = project({"tasks.toml": toml, **written, **more})
        run = made.run

        def call(*args, env=None, **given):
            return run(*args, env={"PYTHONPATH": f"{folder}:{PATH}", **(env or {})}, **given)

        object.__setattr__(made, "run", call)
        return made

    return make


PATH = ":".join(path for path in sys.path if path)
USES = '[tasks.x]\ncall = "{}"\nmode = "thread"\n'
ONE = {"runner-kitchen 1.2": "[runner]\nkitchen = runner_kitchen\n"}
FILES = {"runner_kitchen.py": KITCHEN}
METRICS = {"runner-metrics 0.3": "[runner.hooks]\nmetrics = runner_metrics\n"}


@pytest.mark.parametrize("call", ["kitchen.fry", "fry"])
@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_function_is_found_by_its_name_with_and_without_its_plugin(site, call, mode):
    outcome = site(ONE, FILES, USES.format(call).replace("thread", mode)).run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert "fried 2" in outcome.out


@pytest.mark.slow
def test_spawned_workers_find_it_too(site):
    toml = USES.format("kitchen.fry").replace("thread", "process")
    outcome = site(ONE, FILES, toml).run("tasks.toml", env={"RUNNER_START_METHOD": "spawn"})
    assert outcome.exit == 0, outcome
    assert "fried 2" in outcome.out


def test_a_plugin_that_no_name_leads_to_is_not_imported(site):
    plugin = "from runner import task\nimport sys\n@task\ndef look():\n    print(sorted(n for n in sys.modules if n in {'runner_kitchen', 'pluggy', 'importlib.metadata'}))\n"
    for mode in ("thread", "process"):
        toml = f'[tasks.look]\nmode = "{mode}"\n'
        outcome = site(ONE, FILES, toml, **{"plugins/own.py": plugin}).run("tasks.toml")
        assert outcome.exit == 0, outcome
        assert outcome.out.strip().endswith("[]"), outcome
        assert "kitchen imported" not in outcome.err


def test_a_qualified_name_imports_only_its_plugin(site):
    distributions = {**ONE, "runner-garage 1.0": "[runner]\ngarage = runner_garage\n"}
    files = {**FILES, "runner_garage.py": "raise SystemExit('garage imported')"}
    outcome = site(distributions, files, USES.format("kitchen.fry")).run("tasks.toml")
    assert outcome.exit == 0, outcome


def test_a_bare_name_is_looked_for_at_home_first(site):
    local = "from runner import task\n@task\ndef fry():\n    print('at home')\n"
    outcome = site(ONE, FILES, USES.format("fry"), **{"plugins/home.py": local}).run("tasks.toml")
    assert "at home" in outcome.out, outcome
    assert "kitchen imported" not in outcome.err


def test_a_bare_name_in_two_installed_plugins_is_an_error_that_names_both(site):
    distributions = {**ONE, "runner-diner 3.1": "[runner]\ndiner = runner_diner\n"}
    outcome = site(distributions, {**FILES, "runner_diner.py": KITCHEN}, USES.format("fry")).run("tasks.toml")
    assert outcome.exit == 3, outcome
    assert "E311" in outcome.err
    for part in (
        "`kitchen.fry`",
        "runner-kitchen 1.2",
        "runner_kitchen.py",
        "`diner.fry`",
        "runner-diner 3.1",
        "in full",
    ):
        assert part in outcome.err


def test_two_distributions_of_one_plugin_name_are_an_error_only_for_who_needs_it(site):
    distributions = {**ONE, "runner-diner 3.1": "[runner]\nkitchen = runner_diner\n"}
    made = site(distributions, {**FILES, "runner_diner.py": KITCHEN}, USES.format("kitchen.fry"))
    outcome = made.run("tasks.toml")
    assert outcome.exit == 3, outcome
    for part in ("E311", "runner-kitchen 1.2", "runner-diner 3.1", "runner_diner.py", "--no-plugin runner-"):
        assert part in outcome.err, outcome
    assert made.run("tasks.toml", "--no-plugin", "runner-diner").exit == 0
    assert "imported" not in outcome.err
    made.write({"tasks.toml": USES.format("os:getcwd")})
    assert made.run("tasks.toml").exit == 0


def test_a_local_plugin_and_an_installed_one_of_one_name(site):
    local = "from runner import task\n@task\ndef fry():\n    print('at home')\n"
    made = site(ONE, FILES, USES.format("kitchen.fry"), **{"plugins/kitchen.py": local})
    outcome = made.run("tasks.toml")
    assert (outcome.exit, "E311" in outcome.err) == (3, True), outcome
    assert "plugins/kitchen.py" in outcome.err
    assert "runner-kitchen 1.2" in outcome.err
    outcome = made.run("tasks.toml", "--no-plugin", "runner-kitchen")
    assert "at home" in outcome.out, outcome


# -- blocking ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "env", "by"),
    [
        (["--no-plugin", "kitchen"], {}, "--no-plugin kitchen"),
        (["--no-plugin", "runner_kitchen"], {}, "--no-plugin runner_kitchen"),
        (["--no-plugins"], {}, "--no-plugins"),
        (["--only-plugin", "other"], {}, "--only-plugin"),
        ([], {"RUNNER_DISABLE_PLUGINS": "1"}, "RUNNER_DISABLE_PLUGINS"),
        ([], {"RUNNER_DISABLE_PLUGINS": "other, kitchen"}, "RUNNER_DISABLE_PLUGINS"),
        ([], {"RUNNER_PLUGINS": "other"}, "RUNNER_PLUGINS"),
        ([], {"RUNNER_PLUGINS": ""}, "RUNNER_PLUGINS"),
    ],
)
def test_what_is_blocked_is_not_imported_and_the_error_says_by_what(site, args, env, by):
    outcome = site(ONE, FILES, USES.format("kitchen.fry")).run("tasks.toml", *args, env=env)
    assert outcome.exit == 3, outcome
    assert f"plugin `kitchen`, which `kitchen.fry` needs, is blocked by {by}" in outcome.err
    assert "kitchen imported" not in outcome.err


def test_hooks_are_blocked_before_their_import(site):
    made = site(METRICS, {"runner_metrics.py": EVENTS})
    assert "heard RunStarted" in made.run("tasks.toml").err
    blocked = made.run("tasks.toml", "--no-plugin", "metrics")
    assert blocked.exit == 0
    assert "metrics imported" not in blocked.err
    allowed = made.run("tasks.toml", "--only-plugin", "metrics", env={"RUNNER_PLUGINS": "other"})
    assert "heard RunEnded" in allowed.err


# -- listing ----------------------------------------------------------------------------------


def listed(made, *args):
    outcome = made.run("plugins", "--json", *args, verb="list")
    assert outcome.exit == 0, outcome
    return {each["name"]: each for each in json.loads(outcome.out)}, outcome


def test_the_list_imports_no_lazy_plugin_unless_it_is_asked_to(site):
    distributions = {**ONE, **METRICS, "runner-gone 1.0": "[runner.hooks]\ngone = runner_gone\n"}
    made = site(distributions, {**FILES, "runner_metrics.py": EVENTS})
    found, outcome = listed(made)
    assert "kitchen imported" not in outcome.err
    kitchen, metrics, gone = found["kitchen"], found["metrics"], found["gone"]
    assert (kitchen["status"], kitchen["functions"], kitchen["version"]) == ("lazy", None, "1.2")
    assert kitchen["file"].endswith("site/runner_kitchen.py")
    assert (metrics["status"], metrics["hooks"]) == ("loaded", ["runner_event"])
    assert (gone["status"], gone["why"]) == ("broken", "ModuleNotFoundError: No module named 'runner_gone'")
    found, outcome = listed(made, "--load")
    assert found["kitchen"]["functions"] == ["fry", "boil"]
    found, outcome = listed(made, "--no-plugin", "kitchen", "--load")
    assert (found["kitchen"]["status"], found["kitchen"]["why"]) == ("blocked", "--no-plugin kitchen")
    assert "kitchen imported" not in outcome.err
    text = made.run("plugins", verb="list").out
    assert "functions unknown until loaded" in text
    assert "gone: could not be loaded: ModuleNotFoundError" in text
    assert "kitchen.fry(*, eggs: int = 2)" in made.run("functions", verb="list").out


# -- commands ---------------------------------------------------------------------------------

OVEN = {"runner-oven 2.0": "[runner.commands]\noven = runner_oven:app\n"}
APP = """
    import sys
    import typer
    print("oven imported", file=sys.stderr)
    app = typer.Typer()

    @app.command()
    def light(hot: int = 200):
        print("lit at", hot)

    @app.command()
    def out():
        print("out")
"""


def test_a_command_is_shown_by_name_and_imported_when_it_is_called(site):
    made = site(OVEN, {"runner_oven.py": APP})
    shown = made.run(verb="--help")
    assert "Of runner-oven. (runner-oven 2.0)" in shown.out, shown
    assert "oven imported" not in shown.err
    called = made.run("light", "--hot", "5", verb="oven")
    assert (called.exit, called.out) == (0, "lit at 5\n"), called
    assert made.run("light", verb="oven", env={"RUNNER_DISABLE_PLUGINS": "1"}).exit == 2


@pytest.mark.parametrize(
    ("points", "text"),
    [
        ("oven = runner_nothing:app", "No module named 'runner_nothing'"),
        ("oven = runner_oven:aap", "has no `aap`"),
    ],
)
def test_a_broken_command_harms_only_who_calls_it(site, points, text):
    made = site({"runner-oven 2.0": f"[runner.commands]\n{points}\n"}, {"runner_oven.py": APP})
    assert made.run(verb="--help").exit == 0
    outcome = made.run(verb="oven")
    assert outcome.exit == 3, outcome
    assert text in outcome.err
    assert "runner-oven 2.0" in outcome.err


def test_a_command_of_two_distributions_names_both(site):
    made = site({**OVEN, "runner-stove 1.0": "[runner.commands]\noven = runner_oven:app\n"}, {"runner_oven.py": APP})
    outcome = made.run(verb="oven")
    assert outcome.exit == 3, outcome
    assert "runner-oven 2.0" in outcome.err
    assert "runner-stove 1.0" in outcome.err


# -- broken ones ------------------------------------------------------------------------------

WRONG_HOOKS = {
    "import error": ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
    "syntax error": ("def f(:\n", "SyntaxError"),
    "an exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "wrong name": (
        "from runner import hookimpl\n@hookimpl\ndef runner_evnt(event): ...\n",
        "unknown hook `runner_evnt`; did you mean `runner_event`?",
    ),
    "wrong argument": (
        "from runner import hookimpl\n@hookimpl\ndef runner_event(evnt): ...\n",
        "hook `runner_event` takes `event`, not `evnt`; did you mean `event`?",
    ),
    "async": ("from runner import hookimpl\n@hookimpl\nasync def runner_event(event): ...\n", "not `async def`"),
    "not marked": ("def runner_event(event): ...\n", "`runner_event` is not marked as a hook"),
    "no hook": ("x = 1\n", "has no function marked with `@hookimpl`"),
    "no context manager": (
        "from runner import hookimpl\n@hookimpl\ndef runner_worker(worker):\n    yield\n",
        "put `@contextmanager` between",
    ),
}


@pytest.mark.parametrize(
    "wrong", [pytest.param(name, marks=pytest.mark.slow if at % 2 else ()) for at, name in enumerate(WRONG_HOOKS)]
)
def test_broken_hooks_are_named_and_harm_nobody(site, wrong):
    text, expected = WRONG_HOOKS[wrong]
    made = site(
        {"runner-bad 0.1": "[runner.hooks]\nbad = runner_bad\n", **METRICS},
        {"runner_bad.py": text, "runner_metrics.py": EVENTS},
    )
    outcome = made.run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert "heard RunEnded" in outcome.err
    for part in ("plugin `bad`", "runner-bad 0.1", "runner_bad.py", expected):
        assert part in outcome.err, outcome
    checked = made.run("tasks.toml", verb="check")
    assert (checked.exit, "W406" in checked.out, expected in checked.out) == (0, True, True), checked


def test_an_optional_hook_of_another_version_is_left_alone(site):
    text = "from runner import hookimpl\n@hookimpl(optionalhook=True)\ndef runner_of_tomorrow(it): ...\n"
    outcome = site({"runner-new 9": "[runner.hooks]\nnew = runner_new\n"}, {"runner_new.py": text}).run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert "left out" not in outcome.err


def test_two_hooks_plugins_of_one_name_are_both_left_out_and_named(site):
    distributions = {**METRICS, "runner-gauges 7.0": "[runner.hooks]\nmetrics = runner_metrics\n"}
    outcome = site(distributions, {"runner_metrics.py": EVENTS}).run("tasks.toml")
    assert outcome.exit == 0, outcome
    for part in ("runner-metrics 0.3", "runner-gauges 7.0", "--no-plugin runner-gauges", "left out"):
        assert part in outcome.err
    assert "metrics imported" not in outcome.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "No module named 'runner_kitchen'"),
        ("import no_such_dependency", "No module named 'no_such_dependency'"),
        ("def f(:\n", "SyntaxError"),
        ("1/0", "ZeroDivisionError"),
    ],
)
def test_a_broken_plugin_of_functions_fails_only_the_run_that_needs_it(site, text, expected):
    made = site(ONE, {"runner_kitchen.py": text} if text else {}, USES.format("kitchen.fry"))
    outcome = made.run("tasks.toml")
    assert outcome.exit == 3, outcome
    for part in ("E310", "plugin `kitchen`", "runner-kitchen 1.2", expected, "tasks.toml:2"):
        assert part in outcome.err, outcome
    made.write({"tasks.toml": USES.format("os:getcwd")})
    outcome = made.run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert "kitchen" not in outcome.err


# -- the scan ---------------------------------------------------------------------------------


def test_the_scan_sees_what_importlib_metadata_sees(site, tmp_path):
    import importlib.metadata

    site({**ONE, **METRICS, **OVEN}, {})
    folder = str(tmp_path / "site")
    (tmp_path / "site" / "old.egg-info").mkdir()
    (tmp_path / "site" / "old.egg-info" / "entry_points.txt").write_text(
        "[runner]\n# none\n\nold = old_module [extra]\n"
    )
    expected = {
        (point.group, point.name, point.module)
        for found in importlib.metadata.distributions(path=[folder])
        for point in found.entry_points
    }
    scanned = {
        (group, name, module.partition(":")[0])
        for found in distributions.find_distributions([folder])
        for name, modules in found.modules_by_group().items()
        for group, module in modules.items()
    }
    assert scanned == expected
    assert len(scanned) == 4


def test_of_two_installations_the_first_on_the_path_counts(tmp_path):
    for number in (1, 2):
        info = tmp_path / str(number) / f"a_b-{number}.dist-info"
        info.mkdir(parents=True)
        (info / "entry_points.txt").write_text("[runner]\nx = y\n")
    [found] = distributions.find_distributions([str(tmp_path / "2"), str(tmp_path / "1"), str(tmp_path / "none")])
    assert (found.version, found.modules_by_group()) == ("2", {"x": {"runner": "y"}})
