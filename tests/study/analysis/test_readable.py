"""The tables of analyses as people read them."""

from study.analysis.ablations import Difference
from study.analysis.isoflop import Budget, PowerLaw
from study.analysis.learning_rate import BestRate
from study.analysis.tokens_per_parameter import LengthRow


def cells(*rows: BestRate | Difference | LengthRow | Budget) -> list[list[str]]:
    return [[text for _, text in row.readable()] for row in rows]


def test_best_learning_rates() -> None:
    known = BestRate("base", "tiny", 139_840, 3, 6, 2.346e-3, 1.2e-3, 4.5e-3, 2.34567, 0.1, None,
                     0.01, 3, "validation loss", "")  # fmt: skip
    edge = BestRate("base", "tiny", 139_840, 3, 3, None, None, None, None, None, None,
                    None, 0, "validation loss", "why")  # fmt: skip
    assert cells(known, edge) == [
        ["base", "tiny", "140K", "3", "6", "2.35e-03", "1.20e-03 to 4.50e-03", "2.346", ""],
        ["base", "tiny", "140K", "3", "3", "", "", "", "why"],
    ]


def test_ablations() -> None:
    known = Difference("base", "tiny", 139_840, "tied", "base", 2, 2.34567, 0.1234, 0.0456, 0.01,
                       0.2345, True, 0.05, 2, "validation loss", "")  # fmt: skip
    within = Difference("base", "tiny", 139_840, "tied", "base", 2, 2.3, -0.1, 0.2, -0.5, 0.3,
                        False, 0.05, 2, "validation loss", "")  # fmt: skip
    empty = Difference("base", "tiny", 139_840, "tied", "base", 0, None, None, None, None, None,
                       None, None, 0, "validation loss", "no loss yet")  # fmt: skip
    assert [row[4:] for row in cells(known, within, empty)] == [
        ["2", "2.346", "+0.123", "0.046", "+0.010 to +0.234", "yes", ""],
        ["2", "2.300", "-0.100", "0.2", "-0.500 to +0.300", "no", ""],
        ["0", "", "", "", "", "", "no loss yet"],
    ]


def test_lengths() -> None:
    known = LengthRow("base", "tiny", 139_840, 2_796_800, 20.0, 2, 2.34567, 0.0456, "", "")
    empty = LengthRow("base", "tiny", 139_840, 2_796_800, 20.0, 0, None, None, "", "no loss yet")
    assert cells(known, empty) == [
        ["base", "tiny", "140K", "2.8M", "20", "2", "2.346", "0.046", ""],
        ["base", "tiny", "140K", "2.8M", "20", "0", "", "", "no loss yet"],
    ]


def test_isoflops() -> None:
    known = Budget("base", 1e18, 3, 6, 8e7, 7e7, 9e7, 1.6e9, 1.5e9, 1.7e9, 2.34567, None, 0.01, 3,
                   "", "")  # fmt: skip
    edge = Budget("base", 1e18, 3, 6, None, None, None, None, None, None, None, "smallest", 0.01, 3,
                  "", "why")  # fmt: skip
    assert cells(known, edge) == [
        ["base", "1e18", "3", "6", "80M", "70M to 90M", "1.6B", "1.5B to 1.7B", "20", "2.346", ""],
        ["base", "1e18", "3", "6", "", "", "", "", "", "", "why"],
    ]
    law = PowerLaw("base", "params", 0.4876, 0.45, 0.52, 0.1234, 4, "")
    assert dict(law.readable()) == {
        "Variant": "base",
        "Optimum": "Parameters N",
        "Exponent of FLOPs": "0.488",
        "80% interval": "0.450 to 0.520",
        "Coefficient": "0.123",
        "Budgets": "4",
        "Notes": "",
    }
