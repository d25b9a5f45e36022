"""The 233 claims, a file or several for each document; importing this enters them all, in the documents' order."""
# ruff: noqa: F401, I001

from tinypeft.claims.audit import article_lora, article_prompts, article_adapters, article_examples, article_innovations
from tinypeft.claims.audit import glossary, glossary_code, glossary_practice
from tinypeft.claims.audit import blog, blog_table
from tinypeft.claims.audit import chapter_why, chapter_lora, chapter_qlora, chapter_adapters, chapter_prefix, chapter_table
from tinypeft.claims.audit import chapter_examples, chapter_quiz, chapter_problems, chapter_problem_3, chapter_summary
from tinypeft.claims.claim import CLAIMS

__all__ = ["CLAIMS"]
