"""What fine-tuning costs: shapes of named models, parameter counts, memory, and a planner."""

from tinypeft.budget.catalog import CATALOG, Counts, adapted, base_parameters, build, count_parameters
from tinypeft.budget.units import Quantity, format_bytes, format_count, format_value, parse_quantity, parse_size

__all__ = ["CATALOG", "Counts", "Quantity", "adapted", "base_parameters", "build", "count_parameters", "format_bytes",
           "format_count", "format_value", "parse_quantity", "parse_size"]
