"""What fine-tuning costs: shapes of named models, parameter counts, memory, and a planner."""

from tinypeft.budget.activations import Activations, activations
from tinypeft.budget.breakdown import Breakdown
from tinypeft.budget.catalog import CATALOG, Counts, adapted, base_parameters, build, count_parameters
from tinypeft.budget.choice import Choice, Needs, choose
from tinypeft.budget.memory import adapter_bytes, memory, merge_memory
from tinypeft.budget.planner import Plan, largest_model, largest_models, largest_size, plan
from tinypeft.budget.units import Quantity, format_bytes, format_count, format_value, parse_quantity, parse_size

__all__ = ["CATALOG", "Activations", "Breakdown", "Choice", "Counts", "Needs", "Plan", "Quantity", "activations", "adapted",
           "adapter_bytes", "base_parameters", "build", "choose", "count_parameters", "format_bytes", "format_count",
           "format_value", "largest_model", "largest_models", "largest_size", "memory", "merge_memory", "parse_quantity",
           "parse_size", "plan"]
