"""elm_merge: several merges in turn, of which one may take what another has made."""

import dataclasses

from elm_jax import errors
from elm_jax.runs import merge
from elm_jax.runs.run import Plan, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stages(Run):
    """Merges in turn: the result of a stage is a folder that a later one can name.

    The manifest of each result has the recipes of those of its parts that are merges
    themselves. What is finished is not merged again.

    Attributes:
      stages: The merges, `@first/merge.Merge()` and so on, each after those whose
        results it takes.
    """

    stages: tuple[merge.Merge, ...]

    def check(self) -> None:
        """Raises ConfigError if results collide, or a stage takes a later result."""
        if not self.stages:
            raise errors.ConfigError(
                found="no stages", expected="one or more merges", do="Name them"
            )
        folders = [stage.folder for stage in self.stages]
        for place, stage in enumerate(self.stages):
            takes = {stage.path(pattern) for pattern in stage.experts}
            if folders.index(stage.folder) < place:
                raise errors.ConfigError(
                    found=f"two stages with the result {stage.folder}",
                    expected="another expert_name or experts_dir for each",
                    do="Give one of them another expert_name",
                )
            if late := takes & {*folders[place:]}:
                raise errors.ConfigError(
                    found=f"stage {stage.expert_name!r}, which takes {late.pop()}, the"
                    " result of itself or of a later stage",
                    expected="each stage after those whose results it takes",
                    do="Put the stages in another order",
                )

    def plan(self) -> Plan:
        """Returns the plan of each stage whose experts are there.

        Raises:
          ElmError: As the stage's own plan.
        """
        lines: Plan = {}
        for place, stage in enumerate(self.stages):
            missing = [
                earlier.expert_name
                for earlier in self.stages[:place]
                if earlier.folder in {stage.path(path) for path in stage.experts}
                and not earlier.folder.is_dir()
            ]
            head = f"{place + 1} {stage.expert_name}"
            if missing:
                lines[head] = f"after {', '.join(missing)}, by {stage.chosen_method()}"
                continue
            lines |= {f"{head}: {name}": value for name, value in stage.plan().items()}
        return lines

    def run(self) -> None:
        """Merges, stage by stage.

        Raises:
          CheckpointError: Another merge is there under the name of a stage.
          ElmError: Experts do not fit each other, the base or the method.
        """
        config = self.operative_config()
        for stage in self.stages:
            with errors.during(f"stage {stage.expert_name}"):
                stage.merge(operative_config=config)
