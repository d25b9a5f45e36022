"""The worked examples of the documents, one file for each document; importing this enters them all."""

from tinypeft.claims.examples import article, chapter, glossary
from tinypeft.claims.examples.engine import EXAMPLES, Example, Mark, Step, known_example

__all__ = ["EXAMPLES", "Example", "Mark", "Step", "article", "chapter", "glossary", "known_example"]
