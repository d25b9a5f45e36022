"""The 233 claims, a file or several for each document; importing this enters them all."""

from tinypeft.claims.audit import (  # noqa: F401
    article_adapters,
    article_examples,
    article_innovations,
    article_lora,
    article_prompts,
    blog,
    blog_table,
    chapter_adapters,
    chapter_examples,
    chapter_lora,
    chapter_prefix,
    chapter_problem_3,
    chapter_problems,
    chapter_qlora,
    chapter_quiz,
    chapter_summary,
    chapter_table,
    chapter_why,
    glossary,
    glossary_code,
    glossary_practice,
)
from tinypeft.claims.claim import CLAIMS

__all__ = ["CLAIMS"]
