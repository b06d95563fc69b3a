"""The file tools, as the model sees them."""

from tests.agent.bench import Bench, turn

from runner_service.v1 import execution_event_pb2 as event_pb2


async def test_files_are_written_edited_listed_found_and_read(bench: Bench) -> None:
    played = await bench.play(
        turn("", ("write_file", {"file_path": "/notes/a.txt", "content": "one\ntwo\nthree\n"})),
        turn("", ("edit_file", {"file_path": "notes/a.txt", "old_string": "two", "new_string": "2"})),
        turn(
            "",
            ("ls", {"path": "/notes"}),
            ("glob", {"pattern": "*.txt"}),
            ("grep", {"pattern": "three", "output_mode": "content"}),
            ("read_file", {"file_path": "/notes/a.txt", "offset": 1, "limit": 1}),
        ),
        turn("Done."),
    )
    assert (bench.root / "notes/a.txt").read_text() == "one\n2\nthree\n"
    assert {each.outcome for each in played.all("tool_call_finished")} == {event_pb2.TOOL_OUTCOME_SUCCEEDED}
    for call in ("call-3-1", "call-3-2"):
        assert "/notes/a.txt" in played.finished(call).result
    assert "three" in played.finished("call-3-3").result
    shown = played.finished("call-3-4").result
    assert "\n2" in shown
    assert "three" not in shown


async def test_refusals_are_results_that_help(bench: Bench) -> None:
    bench.root.mkdir(exist_ok=True)
    (bench.root / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    (bench.root / "text.pdf").write_text("not a PDF\n")
    played = await bench.play(
        turn(
            "",
            ("read_file", {"file_path": "/nothing"}),
            ("read_file", {"file_path": "../../etc/passwd"}),
            ("read_file", {"file_path": "/picture.png"}),
            ("read_file", {"file_path": "/text.pdf"}),
            ("edit_file", {"file_path": "/text.pdf", "old_string": "absent", "new_string": "x"}),
            ("write_file", {"file_path": "/tool_output/call-1-1.stdout", "content": "x"}),
            ("read_file", {"file_path": "/tool_output/none.stdout"}),
        ),
        turn("Done."),
    )
    results = [each.result for each in sorted(played.all("tool_call_finished"), key=lambda each: each.tool_call_id)]
    hints = ("nothing", "not allowed", "image/png", "command", "not found", "read-only", "ls /tool_output")
    for result, hint in zip(results, hints, strict=True):
        assert hint in result, result
    assert {each.outcome for each in played.all("tool_call_finished")} == {event_pb2.TOOL_OUTCOME_FAILED}
    assert not (bench.root / "tool_output").exists()


async def test_a_long_file_is_read_in_parts_that_join(bench: Bench) -> None:
    bench.root.mkdir(exist_ok=True)
    (bench.root / "long.txt").write_text("".join(f"{number} {'x' * 200}\n" for number in range(1, 2001)))
    played = await bench.play(turn("", ("read_file", {"file_path": "/long.txt", "limit": 2000})), turn("Done."))
    finished = played.finished("call-1-1")
    assert finished.truncated
    assert "1 xxx" in finished.result


async def test_a_window_of_very_many_lines_is_cut_before_deepagents_tries_each_of_them(bench: Bench) -> None:
    """It would block the event loop, for a time that grows with the square: 10 s for 300 KB, hours for 10 MB."""
    bench.root.mkdir(exist_ok=True)
    (bench.root / "many.txt").write_text("x\n" * 30_000)
    played = await bench.play(
        turn("", ("execute", {"command": "cat many.txt many.txt"})),
        turn(
            "",
            ("read_file", {"file_path": "/many.txt", "limit": 10**9}),
            ("read_file", {"file_path": "/tool_output/call-1-1.stdout", "limit": 10**9}),
        ),
        turn("Done."),
    )
    assert "lines 1-10000 of 30000" in (file := played.finished("call-2-1").result)
    assert "next offset 10000" in file
    assert "lines 1-25000" in (output := played.finished("call-2-2").result)
    assert "next offset 25000" in output
    assert not any("truncated due to size" in result for result in (file, output))


async def test_a_line_that_is_longer_than_all_that_is_shown_is_not_repeated_nor_passed_over(bench: Bench) -> None:
    bench.root.mkdir(exist_ok=True)
    (bench.root / "long.txt").write_text("a" * 200_000 + "\nb\n")
    reads = [("read_file", {"file_path": "/long.txt", "offset": offset}) for offset in (0, 1)]
    played = await bench.play(turn("", *reads), turn("Done."))
    assert "truncated mid-line" in played.finished("call-1-1").result
    assert played.finished("call-1-2").result.endswith("b")


async def test_of_a_large_directory_the_model_sees_a_part_and_how_to_find_the_rest(bench: Bench) -> None:
    directory = bench.root / "full"
    directory.mkdir(parents=True)
    for number in range(1200):
        (directory / f"{number:04}").touch()
    played = await bench.play(
        turn("", ("ls", {"path": "/full"}), ("glob", {"pattern": "119*", "path": "/full"})), turn("Done.")
    )
    listed = played.finished("call-1-1").result
    assert "/full/0001" in listed
    assert "/full/1199" not in listed
    assert "entries more, of 1,200: name a pattern, as glob /full/a*" in listed
    assert "/full/1199" in played.finished("call-1-2").result


async def test_a_search_leaves_out_what_is_ignored_unless_the_model_asks_for_it(bench: Bench) -> None:
    played = await bench.play(
        turn("", ("execute", {"command": "mkdir dist; echo dist/ > .gitignore; echo needle | tee dist/a.txt > b.txt"})),
        turn("", ("grep", {"pattern": "needle"}), ("glob", {"pattern": "*.txt"})),
        turn("", ("grep", {"pattern": "needle", "include_ignored": True})),
        turn("", ("glob", {"pattern": "*.txt", "include_ignored": True})),
        turn("Done."),
    )
    for call, has_ignored in {"call-2-1": False, "call-2-2": False, "call-3-1": True, "call-4-1": True}.items():
        assert ("dist/a.txt" in played.finished(call).result) is has_ignored
        assert "b.txt" in played.finished(call).result


async def test_parallel_sub_agents_lose_no_edit_of_each_other(bench: Bench) -> None:
    words = [f"word-{number}" for number in range(8)]
    (bench.root).mkdir(exist_ok=True)
    (bench.root / "shared.txt").write_text("".join(f"{word}\n" for word in words))
    tasks = [("task", {"subagent_type": "general-purpose", "description": word}) for word in words]
    edits = [{"file_path": "/shared.txt", "old_string": word, "new_string": word.upper()} for word in words]
    played = await bench.play(
        turn("", *tasks),
        turn("Done."),
        sub_agents=[
            {"task": word, "turns": [turn("", ("edit_file", edit)), turn("Edited.")]}
            for word, edit in zip(words, edits, strict=True)
        ],
    )
    assert played.answer == "Done."
    assert (bench.root / "shared.txt").read_text() == "".join(f"{word}\n".upper() for word in words)


async def test_a_sub_agent_does_not_overwrite_a_change_that_it_has_not_seen(bench: Bench) -> None:
    """The main agent edits what it has read; the sub-agent had read it before."""
    read = ("read_file", {"file_path": "/shared.txt"})
    write = ("write_file", {"file_path": "/shared.txt", "content": "by the sub-agent"})
    sed = ("execute", {"command": "sed -i s/old/changed/ shared.txt"})
    bench.root.mkdir(exist_ok=True)
    (bench.root / "shared.txt").write_text("old")
    played = await bench.play(
        turn("", ("task", {"subagent_type": "general-purpose", "description": "write"})),
        turn("Done."),
        sub_agents=[{"turns": [turn("", read), turn("", sed), turn("", write), turn("", write), turn("Written.")]}],
    )
    results = [each.result for each in played.all("tool_call_finished")]
    assert any("changed after you read it" in result and "changed\n" in f"{result}\n" for result in results)
    assert (bench.root / "shared.txt").read_text() == "by the sub-agent"
