"""Values as found: numbers in any form, and lists or objects where a value should be."""

from contextlib import suppress

import numpy as np
import pandas as pd
import pyarrow as pa


def as_numbers(values: pd.Series) -> pd.Series:
    """Values as float64; NaN for a value that is not a number."""
    if isinstance(values.dtype, pd.StringDtype):
        with suppress(pa.ArrowInvalid):  # some value is not a number, or is written in a form that Arrow does not read
            return pd.Series(pa.array(values).cast(pa.float64()).to_numpy(), index=values.index)
    flat = values.mask(is_nested(values)) if values.dtype == object else values
    return pd.to_numeric(flat, errors="coerce").astype("float64")


def is_nested(values: pd.Series) -> pd.Series:
    """Whether each value is a list or an object, as JSON and Parquet may hold."""
    if values.dtype != object:
        return pd.Series(False, index=values.index)
    return values.map(lambda value: isinstance(value, (dict, list, np.ndarray))).astype(bool)


def rounded_down(numbers: pd.Series) -> pd.Series:
    """The largest whole numbers that are not above the numbers, with the same index."""
    return pd.Series(np.floor(numbers.to_numpy()), index=numbers.index)
