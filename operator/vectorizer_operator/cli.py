"""The operator's two commands: `vectorizer-operator` and `vectorizerctl` (also installed as `kubectl-vectorizer`).

Bodies lie near their subject and are imported when they run: `vectorizerctl validate` starts without an HTTP stack.
Exit status of every command: 0 fine, 1 violations or a failed action, 2 wrong usage or unreadable input.
"""

import importlib

import click


class LazyGroup(click.Group):
    """A group whose commands are named as "module:attribute" and imported when they are asked for."""

    def __init__(self, *, lazy: dict[str, tuple[str, str]], **attributes: object) -> None:
        super().__init__(**attributes)  # type: ignore[arg-type]
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"`{cmd_name}` needs the Python package {error.name}, which is not installed here: "
                "pip install 'vectorizer-operator[operator,engine]'"
            ) from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them all."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in self._lazy.items()])


_COMMON = {"context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100}}

operator_main = click.version_option(package_name="vectorizer-operator", prog_name="vectorizer-operator")(
    LazyGroup(
        name="vectorizer-operator",
        help="Run vector search clusters on Kubernetes.",
        lazy={"run": ("vectorizer_operator.controller.main:run", "Run the operator and its webhook.")},
        **_COMMON,
    )
)

ctl_main = click.version_option(package_name="vectorizer-operator", prog_name="vectorizerctl")(
    LazyGroup(
        name="vectorizerctl",
        help="Check, render and try out VectorizerClusters.",
        lazy={
            "validate": (
                "vectorizer_operator.ctl.validate:validate",
                "Check files against the cluster rules, offline.",
            ),
            "render": (
                "vectorizer_operator.ctl.render:render_command",
                "Print a cluster's Kubernetes objects.",
            ),
            "plan": (
                "vectorizer_operator.ctl.plan:plan_command",
                "Show what applying a file would change, and which pods restart.",
            ),
            "status": (
                "vectorizer_operator.ctl.status:status_command",
                "Show a cluster: conditions, pods, memory, collections.",
            ),
            "why": (
                "vectorizer_operator.ctl.why:why_command",
                "Say what is in a cluster's way, and what to do.",
            ),
            "crd": ("vectorizer_operator.ctl.crd:crd_command", "Print the CustomResourceDefinition."),
            "local": (
                "vectorizer_operator.local.cli:local",
                "Run clusters on this machine, without Kubernetes.",
            ),
        },
        **_COMMON,
    )
)
