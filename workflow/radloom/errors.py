"""The errors that mean something to the user of the workflow."""


class CaseError(Exception):
    """A case that can't be used: it is excluded with a reason and a way out, and the other cases go on.

    Never put a path or any other value of the patient's into it: it is written to tables, logs and the report.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice

    def __reduce__(self) -> tuple[type["CaseError"], tuple[str, str]]:
        return CaseError, (self.reason, self.advice)

    def __str__(self) -> str:
        return f"{self.reason}. {self.advice}" if self.advice else self.reason


class LimitError(CaseError):
    """A case that took more than a limit of its step allows: with another limit it is tried again."""


class CohortError(Exception):
    """A cohort or a setting with which a step can't go on: the run stops with this message."""


class ConfigError(Exception):
    """Everything that is wrong with the configuration, the cohort sheet and the clinical table, in one message."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))
