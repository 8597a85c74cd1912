"""The training objectives by name: what each minimises, and which settings it alone has a use for."""

from __future__ import annotations

from typing import Literal

Objective = Literal[
    "cft", "rcft", "sft", "label_smoothing", "focal", "brier", "mmce", "soft_ece", "cogcalib", "distill"
]
OBJECTIVES: dict[Objective, str] = {
    "cft": "CFT: log loss of the answer alone",
    "rcft": "RCFT: log loss of question and answer, plus λ times the calibration error",
    "sft": "SFT: log loss of question and answer (a control)",
    "label_smoothing": "Label smoothing: log loss of the answer, a share ε of which is spread over all options",
    "focal": "Focal loss: log loss of the answer among the options, less where it is already likely",
    "brier": "CFT plus λ times the Brier score",
    "mmce": "CFT plus λ times the kernel calibration error of the batch (MMCE)",
    "soft_ece": "CFT plus λ times the soft-binned calibration error of the batch",
    "cogcalib": "CogCalib: label smoothing on questions that the untuned model answers right, CFT on the others",
    "distill": "Self-distillation: the untuned model's own option probabilities, softened by a temperature",
}
SETTINGS: dict[str, tuple[Objective, ...]] = {
    "over": ("cft", "label_smoothing", "cogcalib", "brier", "mmce", "soft_ece", "rcft"),
    "language": ("rcft",),
    "lam": ("rcft", "brier", "mmce", "soft_ece"),
    "epsilon": ("label_smoothing", "cogcalib"),
    "gamma": ("focal",),
    "teacher_temperature": ("distill",),
    "soft_bin_temperature": ("soft_ece",),
    "e_step": ("rcft",),
    "target_map": ("rcft",),
    "bin_prior": ("rcft",),
    "min_bin": ("rcft",),
    "sft2_mean": ("rcft", "sft"),
}
"""Settings that mean something to some objectives only, and to which."""


def settings_of(objective: str, language: str | None = None) -> set[str]:
    """Those of :data:`SETTINGS` that an objective has a use for; for rcft it depends on the ``language`` loss.

    >>> sorted(settings_of("brier"))
    ['lam', 'over']
    """
    own = {name for name, owners in SETTINGS.items() if objective in owners}
    if objective == "rcft":
        own -= {"sft2_mean"} if language == "sft1" else {"over"}
    return own
