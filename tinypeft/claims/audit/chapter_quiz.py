"""Claims of "20-09 — Parameter-Efficient Fine-Tuning", the quiz: seven keys that say nothing to compute."""

from __future__ import annotations

from tinypeft.claims.claim import editorial
from tinypeft.claims.judge import Verdict

DOCUMENT = "the document itself: the question, its four options and the key"

editorial("d-q1", "Quiz, Q1", "quiz", "the concept of Total refers to the definition and application of Total",
          Verdict.MEANINGLESS, stated="D",
          reference=DOCUMENT + "; \"Total\" occurs only as the last line of sums and tables",
          why="There is no concept of that name: the word labels sums. The key repeats the question.",
          correct="A question could ask what a total sums up: weights, gradients, optimizer states and activations.")

editorial("d-q2", "Quiz, Q2", "quiz", "the purpose of Full FT is \"to full ft in mathematical analysis\"",
          Verdict.MEANINGLESS, stated="C",
          reference=DOCUMENT + "; section 1, which says what full fine-tuning is",
          why="The key is no sentence, and no option is right: full fine-tuning trains all parameters of the model.",
          correct="Full fine-tuning updates every parameter, and needs gradients and optimizer states for each.")

editorial("d-q3", "Quiz, Q3", "quiz", "QLoRA is a fundamental concept covered in this subject", Verdict.MEANINGLESS,
          stated="A", reference=DOCUMENT,
          why="True of everything in the table of contents. Whoever knows nothing of QLoRA can answer it.",
          correct="A true statement about QLoRA: the frozen base is stored in 4 bits, the adapter is not.")

editorial("d-q4", "Quiz, Q4", "quiz", "the correct result of the worked examples is 65,536", Verdict.MEANINGLESS, stated="D",
          reference=DOCUMENT + "; the worked examples, which end in 8,388,608, in 7.3 GB and in [3.045, 7.06]",
          why="Three examples have three results, and this is none of them: it is an intermediate step of Example 1. The other "
              "options are no values.",
          correct="A question has to say which example it means, and what of it.")

editorial("d-q5", "Quiz, Q5", "quiz", "QLoRA and adapters are closely related concepts", Verdict.MEANINGLESS, stated="D",
          reference=DOCUMENT + "; sections 3 and 4",
          why="How close is not said, and no fact decides it. Both train small matrices beside a frozen base; they differ in "
              "what counts: one is linear and parallel on 4-bit weights, the other is nonlinear and in series.",
          correct="QLoRA adds a linear update beside quantized weights, an adapter a nonlinear module after a sub-layer.")

editorial("d-q6", "Quiz, Q6", "quiz", "a pitfall of prefix tuning is confusing it with a similar concept",
          Verdict.MEANINGLESS, stated="B",
          reference=DOCUMENT + "; the section \"Pitfalls\", which is empty",
          why="Which concept is not said; it would hold of any method.",
          correct="The prefix takes positions and cache, has the width of the keys under grouped queries, and changes the "
                  "first output however it starts.")

editorial("d-q7", "Quiz, Q7", "quiz", "prompt tuning is applied to solve problems in this subject's domain",
          Verdict.MEANINGLESS, stated="C", reference=DOCUMENT + "; section 5, which names large models",
          why="It would be the answer for every method of the chapter.",
          correct="Prompt tuning is for large frozen models with many tasks, where an adapter has to be as small as possible.")
