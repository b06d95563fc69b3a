"""Whatever a handler does, its call is completed with a status that holds no internals."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # it has types, but no marker
from grpc_status import rpc_status
from tests.logged import errors
from tests.probe import Context, failure_of, serving

from runner_service.errors import FieldViolation, InvalidRequestError, NotFoundError, UnavailableError


def raising(error: BaseException) -> dict[str, Any]:
    async def unary(request: StringValue, context: Context) -> StringValue:
        raise error

    async def stream(request: StringValue, context: Context) -> None:
        await context.write(StringValue(value="first"))
        raise error

    return {"unary": unary, "stream": stream}


def details_of(error: grpc.aio.AioRpcError, kind: Callable[[], Any]) -> Any:
    status: Any = rpc_status.from_call(error)  # type: ignore[arg-type]  # the stubs know only its synchronous twin
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    raise AssertionError(f"no {kind}")


async def test_a_refusal_keeps_its_code_and_text_and_carries_its_reason() -> None:
    async with serving(**raising(NotFoundError("no execution x"))) as probe:
        for call in (probe.call(), probe.watch()):
            error = await failure_of(call)
            assert (error.code(), (error.details() or "")) == (grpc.StatusCode.NOT_FOUND, "no execution x")
            info = details_of(error, error_details_pb2.ErrorInfo)
            assert (info.reason, info.domain) == ("NOT_FOUND", "runner-service")


async def test_a_wrong_request_names_each_field_in_its_details_and_in_its_text() -> None:
    wrong = InvalidRequestError([FieldViolation("message", "should be set"), FieldViolation("agent.name", "too long")])
    async with serving(**raising(wrong)) as probe:
        error = await failure_of(probe.call())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "") == "message: should be set; agent.name: too long"
    violations = details_of(error, error_details_pb2.BadRequest).field_violations
    assert [(each.field, each.description) for each in violations] == list(wrong.violations)


async def test_unavailable_says_when_to_call_again() -> None:
    async with serving(**raising(UnavailableError("full", retry_delay=2.5))) as probe:
        error = await failure_of(probe.call())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details_of(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 2500


@pytest.mark.parametrize(
    "defect",
    [RuntimeError("password hunter22"), TimeoutError("hunter22"), ExceptionGroup("hunter22", [OSError(), OSError()])],
)
async def test_the_text_of_a_defect_goes_to_the_log_and_only_its_id_to_the_caller(
    caplog: pytest.LogCaptureFixture, defect: Exception
) -> None:
    async with serving(**raising(defect)) as probe:
        for method in (probe.call, probe.watch):
            caplog.clear()
            error = await failure_of(method())
            assert error.code() is grpc.StatusCode.INTERNAL
            what, fault = (error.details() or "").rsplit(" ", 1)
            assert what == "internal error"
            assert len(bytes.fromhex(fault)) == 4
            assert b"hunter22" not in str(dict(error.trailing_metadata())).encode()
            (record,) = errors(caplog)
            assert fault in record.getMessage()
            assert record.exc_info is not None
            assert record.exc_info[1] is defect


async def test_the_only_error_of_a_task_group_counts_as_that_error() -> None:
    async def unary(request: StringValue, context: Context) -> StringValue:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
        return request

    async def fail() -> None:
        raise NotFoundError("inside")

    async with serving(unary=unary) as probe:
        error = await failure_of(probe.call())
    assert (error.code(), (error.details() or "")) == (grpc.StatusCode.NOT_FOUND, "inside")


async def test_a_cancellation_that_the_handler_made_itself_still_completes_the_call() -> None:
    async with serving(**raising(asyncio.CancelledError())) as probe:
        for call in (probe.call(timeout=20), probe.watch(timeout=20)):
            assert (await failure_of(call)).code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("text", ["x" * 50_000, "ü%\n" * 9_000, "\N{PILE OF POO}" * 9_000])
async def test_a_very_long_text_is_cut_and_keeps_its_code(text: str) -> None:
    wrong = InvalidRequestError([FieldViolation(text[:600], text), FieldViolation("b", text)])
    async with serving(**raising(wrong)) as probe:
        error = await failure_of(probe.call())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").endswith(" […]")
    assert text.startswith((error.details() or "").removesuffix(" […]")[:600])
    assert len((error.details() or "").encode()) <= 2048
    assert details_of(error, error_details_pb2.ErrorInfo).reason == "INVALID_REQUEST"


async def test_what_is_no_message_at_all_is_the_callers_mistake() -> None:
    async with serving() as probe:
        method: Any = probe.channel.unary_unary("/probe.v1.Probe/Call")
        error = await failure_of(method(b"\xff\xff\xff"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(error, error_details_pb2.BadRequest).field_violations[0].field == "request"


async def test_a_handlers_own_abort_passes_as_it_is() -> None:
    async def unary(request: StringValue, context: Context) -> StringValue:
        await context.abort(grpc.StatusCode.DATA_LOSS, "as it is")
        return request

    async with serving(unary=unary) as probe:
        error = await failure_of(probe.call())
    assert (error.code(), (error.details() or "")) == (grpc.StatusCode.DATA_LOSS, "as it is")


async def test_a_generator_is_closed_in_the_task_that_ran_it_also_when_it_waits_for_a_write() -> None:
    tasks: list[Any] = []
    closed = asyncio.Event()

    async def stream(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        tasks.append(asyncio.current_task())
        try:
            while True:
                yield StringValue(value="x" * 65_536)
        finally:
            tasks.append(asyncio.current_task())
            closed.set()

    async with serving(stream=stream) as probe:
        call = probe.watch()
        await call.read()
        await asyncio.sleep(0.2)  # until the buffers on the way are full and the write waits
        call.cancel()
        async with asyncio.timeout(60):
            await closed.wait()
    assert tasks[0] is tasks[1]


async def test_a_caller_who_leaves_while_a_write_waits_for_it_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    left = asyncio.Event()

    async def stream(request: StringValue, context: Context) -> None:
        try:
            while True:
                await context.write(StringValue(value="x" * 65_536))
        finally:
            left.set()

    async with serving(stream=stream, options=[("grpc.http2.lookahead_bytes", 65_536)]) as probe:
        call = probe.watch()
        await anext(aiter(call))
        await asyncio.sleep(0.2)  # until the buffers on the way are full and the write waits
        call.cancel()
        async with asyncio.timeout(60):
            await left.wait()
    assert not errors(caplog)


async def test_a_handler_that_fails_after_its_caller_left_is_logged_once_and_tells_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    tell_end: Any = lambda _: ended.set()  # noqa: E731  # the stubs have a type for it that cannot be written

    async def unary(request: StringValue, context: Context) -> StringValue:
        context.add_done_callback(tell_end)
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("while cleaning up") from None
        return request

    async with serving(unary=unary) as probe:
        call = probe.call()
        await begun.wait()
        call.cancel()
        await asyncio.wait_for(ended.wait(), 20)
    (record,) = errors(caplog)
    assert record.getMessage().startswith("call_failed")
