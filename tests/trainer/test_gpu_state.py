import sys
from types import SimpleNamespace

import pytest

from trainer import gpu_state
from trainer.gpu_state import GpuMeter, GpuState, is_gpu


def test_a_meter_keeps_the_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples at 0, 2 and 4 s; the one asked for at 1 s is too early."""
    seen = [(1980, 650.0, ()), (1620, 700.0, ("temperature",)), (1860, 600.0, ("power limit",))]
    states = iter([GpuState(*values) for values in seen])
    monkeypatch.setattr(gpu_state, "read", lambda uuid: next(states))
    now = 0.0
    meter = GpuMeter("some", clock=lambda: now)
    for moment in (0.0, 1.0, 2.0, 4.0):
        now = moment
        meter.sample()
    found = meter.conditions
    assert found is not None
    assert (found.clock_mhz, found.clock_mhz_min, found.clock_mhz_max) == (1820, 1620, 1980)
    assert found.power_limit_w == 600
    assert found.limits == ("power limit", "temperature")
    assert meter.clock_mhz == 1860


def test_without_a_gpu_there_is_nothing() -> None:
    for uuid in (None, "GPU-that-is-not-there"):
        meter = GpuMeter(uuid)
        meter.sample()
        assert meter.conditions is meter.clock_mhz is meter.peak_memory_gib is None


def test_a_gpu_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And on a CPU nobody is asked."""
    asked: list[str] = []
    monkeypatch.setattr(gpu_state, "read", asked.append)
    for uuid in ("some", None):
        meter = GpuMeter(uuid, clock=lambda: 0.0)
        for _ in range(2):
            meter.sample()
    assert asked == ["some"]


def test_without_nvml_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_state, "_nvml", gpu_state._nvml.__wrapped__)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # its import fails
    assert gpu_state.read_driver() is None


def test_the_driver_is_known_where_nvml_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nvml:
        NVMLError = RuntimeError

        def __init__(self, answer: str | None) -> None:
            self.answer = answer

        def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802  (NVML's name)
            if self.answer is None:
                raise self.NVMLError
            return self.answer

    for nvml, expected in ((None, None), (Nvml("570.86.15"), "570.86.15"), (Nvml(None), None)):
        monkeypatch.setattr(gpu_state, "_nvml", lambda nvml=nvml: nvml)
        assert gpu_state.read_driver() == expected


def test_power_and_memory_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its third sample the GPU tells neither."""
    seen = [(300.0, 30.0), (500.0, 10.0), (None, None)]
    states = iter([GpuState(1980, 700.0, (), power, used) for power, used in seen])
    monkeypatch.setattr(gpu_state, "read", lambda uuid: next(states))
    times = iter([0.0, 0.0, 0.0, 2.0, 2.0, 4.0, 4.0])
    meter = GpuMeter("some", clock=lambda: next(times))
    for _ in range(3):
        meter.sample()
    assert meter.conditions is not None
    assert meter.conditions.power_w == 400
    assert meter.peak_memory_gib == 30


def test_the_state_is_in_watts_and_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML answers in milliwatts and bytes."""
    pynvml = pytest.importorskip("pynvml")

    def refuse(handle: str) -> int:
        raise OSError

    nvml = SimpleNamespace(
        NVMLError=OSError,
        NVML_CLOCK_SM=pynvml.NVML_CLOCK_SM,
        nvmlDeviceGetHandleByUUID={"GPU-a0": "handle"}.__getitem__,
        nvmlDeviceGetName=lambda handle: f"name of {handle}",
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: (
            pynvml.nvmlClocksEventReasonGpuIdle
            | pynvml.nvmlClocksEventReasonSwPowerCap
            | pynvml.nvmlClocksEventReasonSwThermalSlowdown
            | pynvml.nvmlClocksEventReasonHwThermalSlowdown
        ),
        nvmlDeviceGetClockInfo=lambda handle, kind: {pynvml.NVML_CLOCK_SM: 1410}[kind],
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700_000,
        nvmlDeviceGetPowerUsage=lambda handle: 312_500,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=3 * 2**29),
    )
    monkeypatch.setattr(gpu_state, "_nvml", lambda: nvml)
    limits = ("power limit", "temperature")
    assert gpu_state.read("a0") == GpuState(1410, 700.0, limits, power_w=312.5, used_gib=1.5)
    assert gpu_state.name_of("a0") == "name of handle"
    nvml.nvmlDeviceGetPowerUsage = nvml.nvmlDeviceGetMemoryInfo = refuse
    assert gpu_state.read("a0") == GpuState(1410, 700.0, limits, power_w=None, used_gib=None)
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = refuse
    assert gpu_state.read("a0") is None


@pytest.mark.parametrize(
    ("limits", "text"), [((), ""), (("power limit", "temperature"), " (power limit, temperature)")]
)
def test_limits_in_a_line_of_text(limits: tuple[str, ...], text: str) -> None:
    assert GpuState(1980, 700.0, limits).limits_text == text


def test_what_lowers_the_clock_has_nvmls_bits() -> None:
    pynvml = pytest.importorskip("pynvml")
    assert {
        pynvml.nvmlClocksEventReasonSwPowerCap: "power limit",
        pynvml.nvmlClocksEventReasonHwSlowdown: "hardware slowdown",
        pynvml.nvmlClocksEventReasonSwThermalSlowdown: "temperature",
        pynvml.nvmlClocksEventReasonHwThermalSlowdown: "temperature",
        pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power brake",
    } == gpu_state.REASONS


THREE_GPUS = SimpleNamespace(
    NVMLError=OSError,
    nvmlDeviceGetCount=lambda: 3,
    nvmlDeviceGetHandleByIndex=lambda index: index,
    nvmlDeviceGetUUID=lambda handle: f"GPU-{'abc'[handle]}{handle}",
)


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, ["a0", "b1", "c2"]),
        ("2,0", ["c2", "a0"]),
        ("2, 0", ["c2", "a0"]),
        ("GPU-b1", ["b1"]),
        ("", []),
        ("7", []),
        ("0,-1,1", ["a0"]),
    ],
)
def test_the_gpus_of_a_job(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[str]
) -> None:
    monkeypatch.setattr(gpu_state, "_nvml", lambda: THREE_GPUS)
    assert gpu_state.find_visible(visible) == found
    monkeypatch.setattr(gpu_state, "_nvml", lambda: None)
    assert gpu_state.find_visible(visible) == []


@pytest.mark.parametrize(
    ("found", "wanted", "matches"),
    [
        ("NVIDIA H200", "H200", True),
        ("NVIDIA H200", "NVIDIA H200", True),
        ("NVIDIA H100 80GB HBM3", "H200", False),
        ("NVIDIA GH200 480GB", "H200", False),
        ("NVIDIA A100-SXM4-80GB", "A100", True),
        ("NVIDIA A100-SXM4-80GB", "a100 80gb", True),
        ("NVIDIA A100-SXM4-40GB", "A100 80GB", False),
        ("NVIDIA A10", "A100", False),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000", True),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "H100", False),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "H100 MIG 1g.10gb", True),
        ("AMD Instinct MI250X", "MI250X", True),
    ],
)
def test_names_of_gpus(found: str, wanted: str, matches: bool) -> None:
    assert is_gpu(found, wanted) == matches
