"""`run` ends with the list of changed files, `diff` shows them, `undo` takes them back."""

from pathlib import Path

from tests.cli.command_line import CommandLine


def test_a_run_ends_with_what_it_changed_which_diff_shows_and_undo_takes_back(
    service: CommandLine, tmp_path: Path
) -> None:
    ran = service("run", "--id", "changing", "echo one > one.txt; echo two > two.txt; echo three >> one.txt")
    assert ran.returncode == 0
    *_, first, second, count, end = ran.stdout.splitlines()
    assert [first, second, count] == [
        "file: A one.txt +2 -0",
        "file: A two.txt +1 -0",
        "file: 2 files changed, +3 -0",
    ]
    assert end.startswith("succeeded in ")
    assert service("diff", "changing", "two.txt").stdout.splitlines() == [
        "diff --git a/two.txt b/two.txt",
        "new file mode 100644",
        "--- /dev/null",
        "+++ b/two.txt",
        "@@ -0,0 +1 @@",
        "+two",
    ]
    assert service("diff", "changing", "--stat").stdout.splitlines()[-1] == "2 files changed, +3 -0"

    unasked = service("undo", "changing")
    assert unasked.returncode == 1
    assert "add --yes" in unasked.stderr
    shown = service("undo", "changing", "--dry-run", "two.txt")
    assert shown.stdout.splitlines() == ["D two.txt +0 -1", "1 file changed, +0 -1"]
    assert service("undo", "changing", "--yes", "two.txt").stdout.splitlines()[-1] == "1 file put back"
    assert service("diff", "changing", "--stat").stdout.splitlines() == ["A one.txt +2 -0", "1 file changed, +2 -0"]
    assert service("undo", "changing", "--yes", "--redo").stdout.splitlines()[-1] == "1 file put back"
    assert service("undo", "changing", "--yes").stdout.splitlines()[-1] == "2 files put back"
    assert service("undo", "changing", "--yes").stdout == "nothing to put back\n"


def test_undo_leaves_what_somebody_has_edited_since_and_says_so(service: CommandLine) -> None:
    service("run", "--id", "edited", "echo one > edited.txt; echo two > other.txt")
    service("run", "--id", "editing", "echo mine >> edited.txt")
    refused = service("undo", "edited", "--yes")
    assert refused.returncode == 1
    assert "! edited.txt: it was changed by somebody else since" in refused.stdout
    assert "nothing was put back" in refused.stderr
    done = service("undo", "edited", "--yes", "--skip-conflicts")
    assert done.stdout.splitlines()[-1] == "1 file put back"
