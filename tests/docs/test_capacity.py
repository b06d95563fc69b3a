"""The table of capacity in docs/scale-out.md is what its measured figures give."""

from benchmarks import capacity


def test_the_table_is_computed_from_its_figures() -> None:
    assert capacity.main(["--check"]) == 0


def test_other_figures_give_another_table() -> None:
    figures = capacity.inputs()
    assert capacity.table({name: 10 * value for name, value in figures.items()}) != capacity.table(figures)
