"""TP-GRPO for PyTorch Lightning: thought-level process rewards from intrinsic signals.

    from lit_tpgrpo import MathRolloutDataModule, TPGRPOModule

The public names are here and in the packages that define them (``lit_tpgrpo.credit``, ``lit_tpgrpo.judges``, ...). Each is
imported when it is first asked for: worker processes, which import this package too, load neither torch nor Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.checkout import add_folders_beside
from lit_tpgrpo.lazy_imports import lazy_attributes

__version__ = "0.1.0"
add_folders_beside(__name__, "callbacks", "datamodules")

if TYPE_CHECKING:
    from lit_tpgrpo.callbacks import (
        AuditSet,
        CapabilityEstimator,
        EvaluationTable,
        ExportHF,
        JudgedSolutionWriter,
        JudgeRefresh,
        MathEvaluation,
        RoundCallback,
        RunReport,
        SafeCheckpoint,
        SolutionSamples,
    )
    from lit_tpgrpo.chat import ChatClient, LocalChat, OpenAIChat
    from lit_tpgrpo.credit import (
        Baseline,
        CAPOCredit,
        CorrectOnlyCredit,
        CreditAssignment,
        DenseRewardCredit,
        FixedMargin,
        GDPOCredit,
        GradeCredit,
        GroupCredit,
        GroupRelativeCredit,
        IncorrectOnlyCredit,
        LeaveOneOutBaseline,
        LengthMargin,
        MeanBaseline,
        MirroredThoughtCredit,
        OutcomeCredit,
        PrefixMargin,
        PRIMECredit,
        ProcessSupervisedCredit,
        PromptMargin,
        PURECredit,
        QRMCredit,
        ReturnCredit,
        RewardAdvantage,
        RLSPCredit,
        ScorePURECredit,
        ScoreSupervisedCredit,
        SequenceRewardKL,
        SPAECredit,
        StandardisedBaseline,
        StepCredit,
        SuccessRateBaseline,
        ThinkRMCredit,
        ThoughtCredit,
        TokenRewardKL,
        UnadaptedThoughtCredit,
        VinePPOCredit,
        VPPOCredit,
    )
    from lit_tpgrpo.credit.batch import BatchStage, MaxScaling, PotentialGain, PRIMENorm, StdScaling, Whitening
    from lit_tpgrpo.credit.filters import GroupFilter, PROFFilter
    from lit_tpgrpo.datamodules import MathRolloutDataModule
    from lit_tpgrpo.datamodules.arithmetic import ArithmeticProblems
    from lit_tpgrpo.datamodules.sources import (
        Decontaminated,
        EvaluationSet,
        FieldMap,
        FileProblems,
        HubProblems,
        MemoryProblems,
        MixtureProblems,
        ProblemSource,
        StreamedProblems,
    )
    from lit_tpgrpo.engines import Completion, Engine, HFEngine, Policy, SamplingParams, VLLMEngine, VLLMServer
    from lit_tpgrpo.errors import ConfigError, InputError
    from lit_tpgrpo.export import export_checkpoint
    from lit_tpgrpo.functional.continuation_values import EntropyValue, HardValue, SoftValue, ValueEstimate
    from lit_tpgrpo.judges import Judge, JudgeCase, NoisyJudge, RuleJudge, VotingJudge, abstain
    from lit_tpgrpo.judges.evidence import (
        ChosenTokenLogits,
        ContinuationScores,
        EvidenceProvider,
        FeasiblePrefixScores,
        GoldAnswerProbes,
        ImplicitRewards,
        LabelScores,
        MonteCarloContinuations,
        PairwisePreferences,
        PrinciplesGrades,
    )
    from lit_tpgrpo.judges.generative import (
        DirectLabels,
        GenerativeJudge,
        IntrinsicSignals,
        LLMSegmentation,
        QueryConfig,
        RequestLimits,
        RoundBudget,
        RuleSegmentation,
        StepByStep,
    )
    from lit_tpgrpo.judges.grading import PairwiseComparison, PrinciplesGrader
    from lit_tpgrpo.losses import (
        CISPO,
        GSPO,
        SAPO,
        VESPO,
        AdaptiveEntropyBonus,
        ClippedSurrogate,
        DPPOTotalVariation,
        DualClip,
        EntropyBonus,
        GSPOToken,
        LossInputs,
        LossOutput,
        MiniRL,
        PolicyLoss,
        PolicyTerm,
        StaleNegatives,
        TokenLoss,
        TopEntropy,
    )
    from lit_tpgrpo.metrics import AvgAtK, MajAtK, PassAtK
    from lit_tpgrpo.module import TPGRPOModule
    from lit_tpgrpo.records import (
        CreditedSolution,
        JudgedGroup,
        JudgedSolution,
        Outcome,
        Problem,
        Round,
        Solution,
        Step,
        StepLabel,
        StopReason,
        Thought,
        TrainBatch,
        Verdict,
    )
    from lit_tpgrpo.rewards import (
        FormatReward,
        GroupLengthReward,
        OutcomeReward,
        OverlongPenalty,
        RepetitionPenalty,
        RewardCase,
        RewardTerm,
        WeightedTerm,
    )
    from lit_tpgrpo.rollout import Correction, KeepRule
    from lit_tpgrpo.text.formats import Harmony, PlainChain, SolutionFormat, ThinkTags
    from lit_tpgrpo.training import AdapterOff, FrozenCopy, LoRA, OffloadedCopy, SequenceLR, Sharding, TransformersLR
    from lit_tpgrpo.verify import CodeVerifier, FunctionVerifier, MathVerifier, MultipleChoiceVerifier, Verifier
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "callbacks": (
                "AuditSet CapabilityEstimator EvaluationTable ExportHF JudgedSolutionWriter JudgeRefresh MathEvaluation "
                "RoundCallback RunReport SafeCheckpoint SolutionSamples"
            ),
            "chat": "ChatClient LocalChat OpenAIChat",
            "credit": (
                "Baseline CAPOCredit CorrectOnlyCredit CreditAssignment FixedMargin GradeCredit GroupCredit "
                "GroupRelativeCredit IncorrectOnlyCredit LeaveOneOutBaseline LengthMargin MeanBaseline "
                "MirroredThoughtCredit OutcomeCredit PURECredit PrefixMargin ProcessSupervisedCredit PromptMargin "
                "ReturnCredit RewardAdvantage ScoreSupervisedCredit StandardisedBaseline StepCredit "
                "SuccessRateBaseline ThinkRMCredit ThoughtCredit UnadaptedThoughtCredit VPPOCredit VinePPOCredit "
                "SequenceRewardKL TokenRewardKL RLSPCredit ScorePURECredit QRMCredit SPAECredit "
                "DenseRewardCredit PRIMECredit GDPOCredit"
            ),
            "credit.batch": "BatchStage MaxScaling PRIMENorm PotentialGain StdScaling Whitening",
            "credit.filters": "GroupFilter PROFFilter",
            "datamodules": "MathRolloutDataModule",
            "datamodules.arithmetic": "ArithmeticProblems",
            "datamodules.sources": (
                "Decontaminated EvaluationSet FieldMap FileProblems HubProblems MemoryProblems MixtureProblems "
                "ProblemSource StreamedProblems"
            ),
            "engines": "Completion Engine HFEngine Policy SamplingParams VLLMEngine VLLMServer",
            "errors": "ConfigError InputError",
            "export": "export_checkpoint",
            "judges": "Judge JudgeCase NoisyJudge RuleJudge VotingJudge abstain",
            "functional.continuation_values": "EntropyValue HardValue SoftValue ValueEstimate",
            "judges.evidence": (
                "ChosenTokenLogits ContinuationScores EvidenceProvider FeasiblePrefixScores GoldAnswerProbes LabelScores "
                "ImplicitRewards MonteCarloContinuations PairwisePreferences PrinciplesGrades"
            ),
            "judges.generative": (
                "DirectLabels GenerativeJudge IntrinsicSignals LLMSegmentation QueryConfig RequestLimits "
                "RoundBudget RuleSegmentation StepByStep"
            ),
            "judges.grading": "PairwiseComparison PrinciplesGrader",
            "losses": (
                "AdaptiveEntropyBonus CISPO ClippedSurrogate DPPOTotalVariation DualClip EntropyBonus GSPO GSPOToken "
                "LossInputs LossOutput MiniRL PolicyLoss PolicyTerm SAPO StaleNegatives TokenLoss TopEntropy VESPO"
            ),
            "metrics": "AvgAtK MajAtK PassAtK",
            "module": "TPGRPOModule",
            "records": (
                "CreditedSolution JudgedGroup JudgedSolution Outcome Problem Round Solution Step StepLabel StopReason "
                "Thought TrainBatch Verdict"
            ),
            "rewards": (
                "FormatReward GroupLengthReward OutcomeReward OverlongPenalty RepetitionPenalty "
                "RewardCase RewardTerm WeightedTerm"
            ),
            "rollout": "Correction KeepRule",
            "text.formats": "Harmony PlainChain SolutionFormat ThinkTags",
            "training": "AdapterOff FrozenCopy LoRA OffloadedCopy SequenceLR Sharding TransformersLR",
            "verify": "CodeVerifier FunctionVerifier MathVerifier MultipleChoiceVerifier Verifier",
        },
    )

__all__ = [
    "CISPO",
    "GSPO",
    "SAPO",
    "VESPO",
    "AdapterOff",
    "AdaptiveEntropyBonus",
    "ArithmeticProblems",
    "AuditSet",
    "AvgAtK",
    "Baseline",
    "BatchStage",
    "CAPOCredit",
    "CapabilityEstimator",
    "ChatClient",
    "ChosenTokenLogits",
    "ClippedSurrogate",
    "CodeVerifier",
    "Completion",
    "ConfigError",
    "ContinuationScores",
    "CorrectOnlyCredit",
    "Correction",
    "CreditAssignment",
    "CreditedSolution",
    "DPPOTotalVariation",
    "Decontaminated",
    "DenseRewardCredit",
    "DirectLabels",
    "DualClip",
    "Engine",
    "EntropyBonus",
    "EntropyValue",
    "EvaluationSet",
    "EvaluationTable",
    "EvidenceProvider",
    "ExportHF",
    "FeasiblePrefixScores",
    "FieldMap",
    "FileProblems",
    "FixedMargin",
    "FormatReward",
    "FrozenCopy",
    "FunctionVerifier",
    "GDPOCredit",
    "GSPOToken",
    "GenerativeJudge",
    "GoldAnswerProbes",
    "GradeCredit",
    "GroupCredit",
    "GroupFilter",
    "GroupLengthReward",
    "GroupRelativeCredit",
    "HFEngine",
    "HardValue",
    "Harmony",
    "HubProblems",
    "ImplicitRewards",
    "IncorrectOnlyCredit",
    "InputError",
    "IntrinsicSignals",
    "Judge",
    "JudgeCase",
    "JudgeRefresh",
    "JudgedGroup",
    "JudgedSolution",
    "JudgedSolutionWriter",
    "KeepRule",
    "LLMSegmentation",
    "LabelScores",
    "LeaveOneOutBaseline",
    "LengthMargin",
    "LoRA",
    "LocalChat",
    "LossInputs",
    "LossOutput",
    "MajAtK",
    "MathEvaluation",
    "MathRolloutDataModule",
    "MathVerifier",
    "MaxScaling",
    "MeanBaseline",
    "MemoryProblems",
    "MiniRL",
    "MirroredThoughtCredit",
    "MixtureProblems",
    "MonteCarloContinuations",
    "MultipleChoiceVerifier",
    "NoisyJudge",
    "OffloadedCopy",
    "OpenAIChat",
    "Outcome",
    "OutcomeCredit",
    "OutcomeReward",
    "OverlongPenalty",
    "PRIMECredit",
    "PRIMENorm",
    "PROFFilter",
    "PURECredit",
    "PairwiseComparison",
    "PairwisePreferences",
    "PassAtK",
    "PlainChain",
    "Policy",
    "PolicyLoss",
    "PolicyTerm",
    "PotentialGain",
    "PrefixMargin",
    "PrinciplesGrader",
    "PrinciplesGrades",
    "Problem",
    "ProblemSource",
    "ProcessSupervisedCredit",
    "PromptMargin",
    "QRMCredit",
    "QueryConfig",
    "RLSPCredit",
    "RepetitionPenalty",
    "RequestLimits",
    "ReturnCredit",
    "RewardAdvantage",
    "RewardCase",
    "RewardTerm",
    "Round",
    "RoundBudget",
    "RoundCallback",
    "RuleJudge",
    "RuleSegmentation",
    "RunReport",
    "SPAECredit",
    "SafeCheckpoint",
    "SamplingParams",
    "ScorePURECredit",
    "ScoreSupervisedCredit",
    "SequenceLR",
    "SequenceRewardKL",
    "Sharding",
    "SoftValue",
    "Solution",
    "SolutionFormat",
    "SolutionSamples",
    "StaleNegatives",
    "StandardisedBaseline",
    "StdScaling",
    "Step",
    "StepByStep",
    "StepCredit",
    "StepLabel",
    "StopReason",
    "StreamedProblems",
    "SuccessRateBaseline",
    "TPGRPOModule",
    "ThinkRMCredit",
    "ThinkTags",
    "Thought",
    "ThoughtCredit",
    "TokenLoss",
    "TokenRewardKL",
    "TopEntropy",
    "TrainBatch",
    "TransformersLR",
    "UnadaptedThoughtCredit",
    "VLLMEngine",
    "VLLMServer",
    "VPPOCredit",
    "ValueEstimate",
    "Verdict",
    "Verifier",
    "VinePPOCredit",
    "VotingJudge",
    "WeightedTerm",
    "Whitening",
    "abstain",
    "export_checkpoint",
]
