"""What every interval comes as: a value, its two ends, and how they were found."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic and its interval; prints as ``.83 [.80, .86]``, or with the digits of a format such as ``.3f``.

    Without a format there are as many digits as tell the two ends apart: ``.998 [.995, .999]``.
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    n: int  # rows that the value rests on
    method: str  # how the interval was found
    standard_error: float | None = None  # over bootstrap samples, or DeLong's; None where there is none

    def __format__(self, spec: str) -> str:
        """Write the value and its interval without leading zeros."""
        for form in [spec] if spec else ["z.2f", "z.3f", "z.4f"]:
            value, low, high = (_without_zero(format(x, form)) for x in (self.value, self.low, self.high))
            if low != high:
                break
        return f"{value} [{low}, {high}]"

    def __str__(self) -> str:
        """Write two digits, or more where the ends need them."""
        return format(self, "")


def _without_zero(number: str) -> str:
    return number.replace("0.", ".", 1) if number.lstrip("+-").startswith("0.") else number
