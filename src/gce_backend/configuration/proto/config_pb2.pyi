from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Day(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MON: _ClassVar[Day]
    TUE: _ClassVar[Day]
    WED: _ClassVar[Day]
    THU: _ClassVar[Day]
    FRI: _ClassVar[Day]
    SAT: _ClassVar[Day]
    SUN: _ClassVar[Day]
MON: Day
TUE: Day
WED: Day
THU: Day
FRI: Day
SAT: Day
SUN: Day

class ServiceAccount(_message.Message):
    __slots__ = ("name", "scopes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    name: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ...) -> None: ...

class AdditionalDisk(_message.Message):
    __slots__ = ("size_gb", "disk_type", "labels", "auto_delete")
    SIZE_GB_FIELD_NUMBER: _ClassVar[int]
    DISK_TYPE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    AUTO_DELETE_FIELD_NUMBER: _ClassVar[int]
    size_gb: int
    disk_type: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    auto_delete: bool
    def __init__(self, size_gb: _Optional[int] = ..., disk_type: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., auto_delete: _Optional[bool] = ...) -> None: ...

class InstanceTemplate(_message.Message):
    __slots__ = ("base_name", "project", "dimensions", "image_name", "disk_size_gb", "service_accounts", "tags", "metadata", "machine_type", "image_project", "network_url", "auto_assign_external_ip", "min_cpu_platform", "metadata_from_file", "disk_type", "snapshot_name", "snapshot_labels", "boot_snapshot_name", "provisioning_model", "canary", "require_agent", "alternative_machine_types", "labels", "local_ssds", "guest_accelerators", "secure_boot", "confidential_type", "reservation", "resource_policies", "image_family", "additional_disks")
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
    BOOT_SNAPSHOT_NAME_FIELD_NUMBER: _ClassVar[int]
    PROVISIONING_MODEL_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_AGENT_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVE_MACHINE_TYPES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_SSDS_FIELD_NUMBER: _ClassVar[int]
    GUEST_ACCELERATORS_FIELD_NUMBER: _ClassVar[int]
    SECURE_BOOT_FIELD_NUMBER: _ClassVar[int]
    CONFIDENTIAL_TYPE_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_POLICIES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FAMILY_FIELD_NUMBER: _ClassVar[int]
    ADDITIONAL_DISKS_FIELD_NUMBER: _ClassVar[int]
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
    boot_snapshot_name: str
    provisioning_model: str
    canary: int
    require_agent: bool
    alternative_machine_types: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    local_ssds: int
    guest_accelerators: _containers.RepeatedScalarFieldContainer[str]
    secure_boot: bool
    confidential_type: str
    reservation: str
    resource_policies: _containers.RepeatedScalarFieldContainer[str]
    image_family: str
    additional_disks: _containers.RepeatedCompositeFieldContainer[AdditionalDisk]
    def __init__(self, base_name: _Optional[str] = ..., project: _Optional[str] = ..., dimensions: _Optional[_Iterable[str]] = ..., image_name: _Optional[str] = ..., disk_size_gb: _Optional[int] = ..., service_accounts: _Optional[_Iterable[_Union[ServiceAccount, _Mapping]]] = ..., tags: _Optional[_Iterable[str]] = ..., metadata: _Optional[_Iterable[str]] = ..., machine_type: _Optional[str] = ..., image_project: _Optional[str] = ..., network_url: _Optional[str] = ..., auto_assign_external_ip: _Optional[bool] = ..., min_cpu_platform: _Optional[str] = ..., metadata_from_file: _Optional[_Iterable[str]] = ..., disk_type: _Optional[str] = ..., snapshot_name: _Optional[str] = ..., snapshot_labels: _Optional[_Iterable[str]] = ..., boot_snapshot_name: _Optional[str] = ..., provisioning_model: _Optional[str] = ..., canary: _Optional[int] = ..., require_agent: _Optional[bool] = ..., alternative_machine_types: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[str]] = ..., local_ssds: _Optional[int] = ..., guest_accelerators: _Optional[_Iterable[str]] = ..., secure_boot: _Optional[bool] = ..., confidential_type: _Optional[str] = ..., reservation: _Optional[str] = ..., resource_policies: _Optional[_Iterable[str]] = ..., image_family: _Optional[str] = ..., additional_disks: _Optional[_Iterable[_Union[AdditionalDisk, _Mapping]]] = ...) -> None: ...

class InstanceTemplateConfig(_message.Message):
    __slots__ = ("templates",)
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    templates: _containers.RepeatedCompositeFieldContainer[InstanceTemplate]
    def __init__(self, templates: _Optional[_Iterable[_Union[InstanceTemplate, _Mapping]]] = ...) -> None: ...

class Schedule(_message.Message):
    __slots__ = ("days", "start", "end", "time_zone", "minimum_size", "maximum_size", "spare_size")
    DAYS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_SIZE_FIELD_NUMBER: _ClassVar[int]
    SPARE_SIZE_FIELD_NUMBER: _ClassVar[int]
    days: _containers.RepeatedScalarFieldContainer[Day]
    start: str
    end: str
    time_zone: str
    minimum_size: int
    maximum_size: int
    spare_size: int
    def __init__(self, days: _Optional[_Iterable[_Union[Day, str]]] = ..., start: _Optional[str] = ..., end: _Optional[str] = ..., time_zone: _Optional[str] = ..., minimum_size: _Optional[int] = ..., maximum_size: _Optional[int] = ..., spare_size: _Optional[int] = ...) -> None: ...

class InstanceGroupManager(_message.Message):
    __slots__ = ("template_base_name", "minimum_size", "maximum_size", "zone", "spare_size", "surplus_seconds", "schedules", "zones", "max_surge", "max_unavailable", "max_age_seconds", "boot_seconds")
    TEMPLATE_BASE_NAME_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_SIZE_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    SPARE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SURPLUS_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULES_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    MAX_SURGE_FIELD_NUMBER: _ClassVar[int]
    MAX_UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BOOT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    template_base_name: str
    minimum_size: int
    maximum_size: int
    zone: str
    spare_size: int
    surplus_seconds: int
    schedules: _containers.RepeatedCompositeFieldContainer[Schedule]
    zones: _containers.RepeatedScalarFieldContainer[str]
    max_surge: int
    max_unavailable: int
    max_age_seconds: int
    boot_seconds: int
    def __init__(self, template_base_name: _Optional[str] = ..., minimum_size: _Optional[int] = ..., maximum_size: _Optional[int] = ..., zone: _Optional[str] = ..., spare_size: _Optional[int] = ..., surplus_seconds: _Optional[int] = ..., schedules: _Optional[_Iterable[_Union[Schedule, _Mapping]]] = ..., zones: _Optional[_Iterable[str]] = ..., max_surge: _Optional[int] = ..., max_unavailable: _Optional[int] = ..., max_age_seconds: _Optional[int] = ..., boot_seconds: _Optional[int] = ...) -> None: ...

class InstanceGroupManagerConfig(_message.Message):
    __slots__ = ("managers",)
    MANAGERS_FIELD_NUMBER: _ClassVar[int]
    managers: _containers.RepeatedCompositeFieldContainer[InstanceGroupManager]
    def __init__(self, managers: _Optional[_Iterable[_Union[InstanceGroupManager, _Mapping]]] = ...) -> None: ...

class SettingsCfg(_message.Message):
    __slots__ = ("enable_ts_monitoring", "mp_server")
    ENABLE_TS_MONITORING_FIELD_NUMBER: _ClassVar[int]
    MP_SERVER_FIELD_NUMBER: _ClassVar[int]
    enable_ts_monitoring: bool
    mp_server: str
    def __init__(self, enable_ts_monitoring: _Optional[bool] = ..., mp_server: _Optional[str] = ...) -> None: ...
