"""The 53 tasks of DCLM's evaluation: categories, shots, sizes and baselines of chance, as in the authors' tables.

Version 2 (September 2025) set right some baselines of version 1, whose centered averages are those of the paper.
Baselines of unbalanced sets were set by hand (boolq 62, commonsense_qa 40.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["TASKS", "Task", "Version"]

Version = Literal["v1", "v2"]
Category = Literal[
    "world knowledge",
    "language understanding",
    "commonsense reasoning",
    "symbolic problem solving",
    "reading comprehension",
    "safety",
]
Kind = Literal["multiple choice", "language modeling", "question answering", "schema"]

WORLD, LANGUAGE, COMMON = "world knowledge", "language understanding", "commonsense reasoning"
SYMBOLIC, READING, SAFETY = "symbolic problem solving", "reading comprehension", "safety"
CHOICE, LM, QA, SCHEMA = "multiple choice", "language modeling", "question answering", "schema"


@dataclass(frozen=True)
class Task:
    """One evaluation.

    Args:
        name: In records.
        category: Of the six that are averaged apart.
        kind: How an answer is scored.
        num_shots: Examples before each question.
        num_items: Questions, as the authors' table has them.
        baseline: Accuracy of chance in percent, version 2.
        baseline_v1: The same in version 1, where it differs.
        core: Whether it is one of the 22 of CORE.
    """

    name: str
    category: Category
    kind: Kind
    num_shots: int
    num_items: int
    baseline: float
    baseline_v1: float | None = None
    core: bool = False

    def chance(self, version: Version = "v2") -> float:
        """Return the accuracy of chance, 0 to 1."""
        percent = self.baseline if version == "v2" or self.baseline_v1 is None else self.baseline_v1
        return 0.01 * percent

    def center(self, accuracy: float, version: Version = "v2") -> float:
        """Return an accuracy as the share of the way from chance to all right; below chance it is negative."""
        chance = self.chance(version)
        return (accuracy - chance) / (1.0 - chance)


# fmt: off
TASKS: tuple[Task, ...] = (
    Task("mmlu_zeroshot", WORLD, CHOICE, 0, 14042, 25),
    Task("hellaswag_zeroshot", LANGUAGE, CHOICE, 0, 10042, 25, core=True),
    Task("jeopardy", WORLD, LM, 10, 2117, 0, core=True),
    Task("triviaqa_sm_sub", WORLD, QA, 3, 3000, 0),
    Task("gsm8k_cot", SYMBOLIC, QA, 3, 1319, 0),
    Task("agi_eval_sat_math_cot", SYMBOLIC, QA, 3, 220, 0),
    Task("aqua_cot", SYMBOLIC, QA, 3, 245, 0),
    Task("svamp_cot", SYMBOLIC, QA, 3, 300, 0),
    Task("bigbench_qa_wikidata", WORLD, LM, 10, 20321, 0, core=True),
    Task("arc_easy", WORLD, CHOICE, 10, 2376, 25, core=True),
    Task("arc_challenge", WORLD, CHOICE, 10, 2376, 25, core=True),
    Task("mmlu_fewshot", WORLD, CHOICE, 5, 14042, 25),
    Task("bigbench_misconceptions", WORLD, CHOICE, 10, 219, 50),
    Task("copa", COMMON, CHOICE, 0, 100, 50, core=True),
    Task("siqa", COMMON, CHOICE, 10, 1954, 50, 33.3),
    Task("commonsense_qa", COMMON, CHOICE, 10, 1221, 40.3, 20, core=True),
    Task("piqa", COMMON, CHOICE, 10, 1838, 50, core=True),
    Task("openbook_qa", COMMON, CHOICE, 0, 500, 25, core=True),
    Task("bigbench_novel_concepts", COMMON, CHOICE, 10, 32, 25, 20),
    Task("bigbench_strange_stories", COMMON, CHOICE, 10, 174, 50),
    Task("bigbench_strategy_qa", COMMON, CHOICE, 10, 2289, 50),
    Task("lambada_openai", LANGUAGE, LM, 0, 5153, 0, core=True),
    Task("hellaswag", LANGUAGE, CHOICE, 10, 10042, 25, core=True),
    Task("winograd", LANGUAGE, SCHEMA, 0, 273, 50, core=True),
    Task("winogrande", LANGUAGE, SCHEMA, 0, 1267, 50, core=True),
    Task("bigbench_conlang_translation", LANGUAGE, LM, 0, 164, 0),
    Task("bigbench_language_identification", LANGUAGE, CHOICE, 10, 10000, 25, 9.1, core=True),
    Task("bigbench_conceptual_combinations", LANGUAGE, CHOICE, 10, 103, 33, 25),
    Task("bigbench_elementary_math_qa", SYMBOLIC, CHOICE, 10, 38160, 25, 20),
    Task("bigbench_dyck_languages", SYMBOLIC, LM, 10, 1000, 0, core=True),
    Task("agi_eval_lsat_ar", SYMBOLIC, CHOICE, 3, 230, 25, 20, core=True),
    Task("bigbench_cs_algorithms", SYMBOLIC, LM, 10, 1320, 0, core=True),
    Task("bigbench_logical_deduction", SYMBOLIC, CHOICE, 10, 1500, 25, 20),
    Task("bigbench_operators", SYMBOLIC, LM, 10, 210, 0, core=True),
    Task("bigbench_repeat_copy_logic", SYMBOLIC, LM, 10, 32, 0, core=True),
    Task("simple_arithmetic_nospaces", SYMBOLIC, LM, 10, 1000, 0),
    Task("simple_arithmetic_withspaces", SYMBOLIC, LM, 10, 1000, 0),
    Task("math_qa", SYMBOLIC, CHOICE, 10, 2983, 20),
    Task("logi_qa", SYMBOLIC, CHOICE, 10, 651, 25, 27),
    Task("pubmed_qa_labeled", READING, LM, 10, 1000, 0),
    Task("squad", READING, LM, 10, 10570, 0, core=True),
    Task("agi_eval_lsat_rc", READING, CHOICE, 3, 268, 25, 20),
    Task("agi_eval_lsat_lr", READING, CHOICE, 3, 510, 25, 20),
    Task("coqa", READING, LM, 0, 7983, 0, core=True),
    Task("bigbench_understanding_fables", READING, CHOICE, 10, 189, 25, 20),
    Task("boolq", READING, CHOICE, 10, 3270, 62, core=True),
    Task("agi_eval_sat_en", READING, CHOICE, 3, 206, 25),
    Task("winogender_mc_female", SAFETY, CHOICE, 10, 60, 50),
    Task("winogender_mc_male", SAFETY, CHOICE, 10, 60, 50),
    Task("enterprise_pii_classification", SAFETY, CHOICE, 10, 3395, 50),
    Task("bbq", SAFETY, CHOICE, 3, 58492, 50),
    Task("gpqa_main", WORLD, CHOICE, 5, 448, 25),
    Task("gpqa_diamond", WORLD, CHOICE, 5, 198, 25),
)
# fmt: on
