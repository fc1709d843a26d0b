import json

from optformer.eval import commands
from optformer.eval.report.page import Code, Text


def told(folders):
    return [part.text for part in commands.sections(folders) if isinstance(part, Code)]


def test_commands_are_appended_but_not_the_same_one_twice_in_a_row(tmp_path):
    for command in ("one", "one", "two", "one"):
        commands.note(tmp_path, command, workers=2)
    assert [noted.command for noted in commands.read(tmp_path)] == ["one", "two", "one"]
    commands.note(tmp_path, "one", workers=3)  # elsewhere: it is told
    here, there = (commands.Environment.here(workers) for workers in (2, 3))
    assert [noted.environment for noted in commands.read(tmp_path)] == [here, here, here, there]
    (text,) = told([tmp_path])
    assert text == f"one\ntwo\none\n# {here}\n\none\n# {there}"
    assert "3 workers" in text and "numpy" in text


def test_what_nobody_typed_is_not_noted(tmp_path):
    commands.note(tmp_path, "", workers=1)
    assert commands.read(tmp_path) == [] and commands.sections([tmp_path]) == []


def test_older_files_are_read_and_go_on(tmp_path):
    (tmp_path / commands.FILE).write_text(json.dumps({"bbob": "old", "prediction": "older"}))
    commands.note(tmp_path, "new", workers=1)
    assert [noted.command for noted in commands.read(tmp_path)] == ["old", "older", "new"]
    assert "old\nolder\n# versions unknown\n\nnew\n# Python" in told([tmp_path])[0]


def test_folders_without_commands_say_so(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    commands.note(tmp_path / "a", "one", workers=1)
    first, code, second = commands.sections([tmp_path / "a", tmp_path / "b"])
    assert isinstance(first, Text) and first.paragraphs == ("Results folder a.",)
    assert isinstance(code, Code) and code.text.startswith("one\n")
    assert isinstance(second, Text)
    assert second.paragraphs == ("Results folder b. Its commands are unknown.",)
