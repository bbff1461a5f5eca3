"""Numbers are told with the digits and in the unit that say something."""

from pipeline.estimate.quantities import amount, count, duration, money, size


def test_bytes_are_told_in_the_unit_that_shows_them():
    told = {
        72.7e9: "72.7 GB",
        173_464e9: "173,464 GB",
        0.99e9: "990 MB",
        0.999e9: "1.0 GB",
        4.2e6: "4.2 MB",
        812: "0.81 kB",
        1: "<0.01 kB",
        0: "0",
    }
    assert {held: size(held) for held in told} == told


def test_what_is_there_is_never_told_as_nothing():
    assert [amount(number) for number in (0, 1e-9, 0.004, 0.006, 0.16, 0.9949, 1, 99.94, 551.2, 173_464)] == [
        *("0", "<0.01", "<0.01", "0.01", "0.16", "0.99", "1.0", "99.9", "551", "173,464")
    ]
    assert [money(price) for price in (0.001, 0.25, 12.34, 2_626.4)] == ["<0.01", "0.25", "12.3", "2,626"]


def test_counts_and_times():
    assert [count(number) for number in (None, 512, 6_738_415_616, 999_999)] == ["?", "512", "6.74B", "1M"]
    assert [duration(hours) for hours in (1e-3, 0.5, 16.4, 171.0)] == ["3.6 s", "30 min", "16.4 h", "7.1 days"]
