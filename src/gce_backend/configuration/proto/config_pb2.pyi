from collections.abc import Iterable as _Iterable
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar

from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from google.protobuf.internal import containers as _containers

DESCRIPTOR: _descriptor.FileDescriptor

class ServiceAccount(_message.Message):
    __slots__ = ("name", "scopes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    name: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: str | None = ..., scopes: _Iterable[str] | None = ...) -> None: ...

class InstanceTemplate(_message.Message):
    __slots__ = (
        "auto_assign_external_ip",
        "base_name",
        "dimensions",
        "disk_size_gb",
        "disk_type",
        "image_name",
        "image_project",
        "machine_type",
        "metadata",
        "metadata_from_file",
        "min_cpu_platform",
        "network_url",
        "project",
        "service_accounts",
        "snapshot_labels",
        "snapshot_name",
        "tags",
    )
    BASE_NAME_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_NAME_FIELD_NUMBER: _ClassVar[int]
    DISK_SIZE_GB_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    MACHINE_TYPE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_PROJECT_FIELD_NUMBER: _ClassVar[int]
    NETWORK_URL_FIELD_NUMBER: _ClassVar[int]
    AUTO_ASSIGN_EXTERNAL_IP_FIELD_NUMBER: _ClassVar[int]
    MIN_CPU_PLATFORM_FIELD_NUMBER: _ClassVar[int]
    METADATA_FROM_FILE_FIELD_NUMBER: _ClassVar[int]
    DISK_TYPE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_NAME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_LABELS_FIELD_NUMBER: _ClassVar[int]
    base_name: str
    project: str
    dimensions: _containers.RepeatedScalarFieldContainer[str]
    image_name: str
    disk_size_gb: int
    service_accounts: _containers.RepeatedCompositeFieldContainer[ServiceAccount]
    tags: _containers.RepeatedScalarFieldContainer[str]
    metadata: _containers.RepeatedScalarFieldContainer[str]
    machine_type: str
    image_project: str
    network_url: str
    auto_assign_external_ip: bool
    min_cpu_platform: str
    metadata_from_file: _containers.RepeatedScalarFieldContainer[str]
    disk_type: str
    snapshot_name: str
    snapshot_labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(
        self,
        base_name: str | None = ...,
        project: str | None = ...,
        dimensions: _Iterable[str] | None = ...,
        image_name: str | None = ...,
        disk_size_gb: int | None = ...,
        service_accounts: _Iterable[ServiceAccount | _Mapping] | None = ...,
        tags: _Iterable[str] | None = ...,
        metadata: _Iterable[str] | None = ...,
        machine_type: str | None = ...,
        image_project: str | None = ...,
        network_url: str | None = ...,
        auto_assign_external_ip: bool | None = ...,
        min_cpu_platform: str | None = ...,
        metadata_from_file: _Iterable[str] | None = ...,
        disk_type: str | None = ...,
        snapshot_name: str | None = ...,
        snapshot_labels: _Iterable[str] | None = ...,
    ) -> None: ...

class InstanceTemplateConfig(_message.Message):
    __slots__ = ("templates",)
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    templates: _containers.RepeatedCompositeFieldContainer[InstanceTemplate]
    def __init__(self, templates: _Iterable[InstanceTemplate | _Mapping] | None = ...) -> None: ...

class InstanceGroupManager(_message.Message):
    __slots__ = ("maximum_size", "minimum_size", "template_base_name", "zone")
    TEMPLATE_BASE_NAME_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_SIZE_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    template_base_name: str
    minimum_size: int
    maximum_size: int
    zone: str
    def __init__(
        self,
        template_base_name: str | None = ...,
        minimum_size: int | None = ...,
        maximum_size: int | None = ...,
        zone: str | None = ...,
    ) -> None: ...

class InstanceGroupManagerConfig(_message.Message):
    __slots__ = ("managers",)
    MANAGERS_FIELD_NUMBER: _ClassVar[int]
    managers: _containers.RepeatedCompositeFieldContainer[InstanceGroupManager]
    def __init__(
        self, managers: _Iterable[InstanceGroupManager | _Mapping] | None = ...
    ) -> None: ...

class SettingsCfg(_message.Message):
    __slots__ = ("enable_ts_monitoring", "mp_server")
    ENABLE_TS_MONITORING_FIELD_NUMBER: _ClassVar[int]
    MP_SERVER_FIELD_NUMBER: _ClassVar[int]
    enable_ts_monitoring: bool
    mp_server: str
    def __init__(
        self, enable_ts_monitoring: bool | None = ..., mp_server: str | None = ...
    ) -> None: ...
