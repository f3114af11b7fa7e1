from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIEWER: _ClassVar[Role]
    USER: _ClassVar[Role]
    BACKEND: _ClassVar[Role]
    ADMINISTRATOR: _ClassVar[Role]
VIEWER: Role
USER: Role
BACKEND: Role
ADMINISTRATOR: Role

class AccessConfig(_message.Message):
    __slots__ = ("issuers", "groups", "client_ids")
    ISSUERS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    issuers: _containers.RepeatedCompositeFieldContainer[Issuer]
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    client_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, issuers: _Optional[_Iterable[_Union[Issuer, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., client_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Issuer(_message.Message):
    __slots__ = ("url", "audiences", "email_domains")
    URL_FIELD_NUMBER: _ClassVar[int]
    AUDIENCES_FIELD_NUMBER: _ClassVar[int]
    EMAIL_DOMAINS_FIELD_NUMBER: _ClassVar[int]
    url: str
    audiences: _containers.RepeatedScalarFieldContainer[str]
    email_domains: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, url: _Optional[str] = ..., audiences: _Optional[_Iterable[str]] = ..., email_domains: _Optional[_Iterable[str]] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("name", "members", "workloads", "roles", "backend", "priority", "share", "max_leases", "max_machines", "longest_lease", "without_end", "dimensions", "max_held", "longest_hold", "hold_failed", "transfer_to", "max_waiting")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    MAX_LEASES_FIELD_NUMBER: _ClassVar[int]
    MAX_MACHINES_FIELD_NUMBER: _ClassVar[int]
    LONGEST_LEASE_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_END_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_HELD_FIELD_NUMBER: _ClassVar[int]
    LONGEST_HOLD_FIELD_NUMBER: _ClassVar[int]
    HOLD_FAILED_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_TO_FIELD_NUMBER: _ClassVar[int]
    MAX_WAITING_FIELD_NUMBER: _ClassVar[int]
    name: str
    members: _containers.RepeatedScalarFieldContainer[str]
    workloads: _containers.RepeatedCompositeFieldContainer[Workload]
    roles: _containers.RepeatedScalarFieldContainer[Role]
    backend: str
    priority: int
    share: int
    max_leases: int
    max_machines: int
    longest_lease: str
    without_end: bool
    dimensions: _containers.RepeatedScalarFieldContainer[str]
    max_held: int
    longest_hold: str
    hold_failed: str
    transfer_to: _containers.RepeatedScalarFieldContainer[str]
    max_waiting: int
    def __init__(self, name: _Optional[str] = ..., members: _Optional[_Iterable[str]] = ..., workloads: _Optional[_Iterable[_Union[Workload, _Mapping]]] = ..., roles: _Optional[_Iterable[_Union[Role, str]]] = ..., backend: _Optional[str] = ..., priority: _Optional[int] = ..., share: _Optional[int] = ..., max_leases: _Optional[int] = ..., max_machines: _Optional[int] = ..., longest_lease: _Optional[str] = ..., without_end: _Optional[bool] = ..., dimensions: _Optional[_Iterable[str]] = ..., max_held: _Optional[int] = ..., longest_hold: _Optional[str] = ..., hold_failed: _Optional[str] = ..., transfer_to: _Optional[_Iterable[str]] = ..., max_waiting: _Optional[int] = ...) -> None: ...

class Workload(_message.Message):
    __slots__ = ("issuer", "claims")
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    issuer: str
    claims: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, issuer: _Optional[str] = ..., claims: _Optional[_Iterable[str]] = ...) -> None: ...
