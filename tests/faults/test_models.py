"""A model that dies in the middle, while commands run."""

from tests.running import StartService, command, kinds, one, text_of, turn

from runner_service.v1 import execution_event_pb2 as event_pb2


def task(name: str) -> tuple[str, dict[str, str]]:
    return ("task", {"description": name, "subagent_type": "general-purpose"})


async def test_a_model_that_refuses_in_the_middle_ends_the_commands_of_all_agents(start: StartService) -> None:
    client = await start(
        {
            "turns": [turn("", task("busy"), task("doomed")), turn("Never said.")],
            "sub_agents": [
                {"task": "busy", "turns": [turn("", command("touch up; sleep 60")), turn("Never said.")]},
                {
                    "task": "doomed",
                    "turns": [
                        turn("", command("until [ -e up ]; do sleep 0.02; done")),
                        turn("some words before the end", error={"status": 401, "after_pieces": 2}),
                    ],
                },
            ],
        }
    )

    events = await client.execute()

    finished = one(events, "finished")
    assert (finished.state, finished.error.code) == (event_pb2.STATE_FAILED, "MODEL_REJECTED")
    ended = [event.tool_call_finished for event in events if event.HasField("tool_call_finished")]
    assert kinds(events).count("tool_call_started") == len(ended) == 4
    assert sorted(each.outcome for each in ended) == [event_pb2.TOOL_OUTCOME_SUCCEEDED] + 3 * [
        event_pb2.TOOL_OUTCOME_CANCELLED
    ]
    discarded = one(events, "message_discarded").message_id
    assert text_of([event for event in events if event.text_delta.message_id == discarded]) == "some words "
