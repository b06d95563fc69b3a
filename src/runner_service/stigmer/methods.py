"""The methods of the daemon that the service calls, with the messages that they answer with."""

from types import ModuleType
from typing import Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from runner_service.stigmer.wire import agent_pb2, agentinstance_pb2, environment_pb2, session_pb2, skill_pb2
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

M = TypeVar("M", bound=Message)


class Method(NamedTuple, Generic[M]):
    """A unary method: its path, and the type of its response."""

    path: str
    response: type[M]


def _method(module: ModuleType, service: str, name: str, response: type[M]) -> Method[M]:
    return Method(f"/{module.DESCRIPTOR.services_by_name[service].full_name}/{name}", response)


GET_EXECUTION = _method(execution_pb2, "AgentExecutionQueryController", "get", execution_pb2.AgentExecution)
UPDATE_STATUS = _method(execution_pb2, "AgentExecutionCommandController", "updateStatus", execution_pb2.AgentExecution)
GET_SESSION = _method(session_pb2, "SessionQueryController", "get", session_pb2.Session)
GET_INSTANCE = _method(agentinstance_pb2, "AgentInstanceQueryController", "get", agentinstance_pb2.AgentInstance)
GET_AGENT = _method(agent_pb2, "AgentQueryController", "get", agent_pb2.Agent)
GET_SKILL = _method(skill_pb2, "SkillQueryController", "getByReference", skill_pb2.Skill)
GET_ARTIFACT = _method(skill_pb2, "SkillQueryController", "getArtifact", skill_pb2.GetArtifactResponse)
GET_ENVIRONMENT = _method(environment_pb2, "EnvironmentQueryController", "getByReference", environment_pb2.Environment)
