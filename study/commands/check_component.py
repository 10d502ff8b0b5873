"""`study attacks check`: test a component of an attack or defence, from the project or from a user's file."""

from __future__ import annotations

from rich.console import Console

from study.attacks import own_code, registry
from study.attacks.component import Component
from study.attacks.part import Part
from study.defences.kinds import Defence
from study.errors import StudyError, names
from study.spec import yaml_document
from study.terminal.prose import exactly


def print_check(console: Console, reference: str, values: list[str] | None, networks: list[str] | None) -> int:
    """Check a component and print the result of each check. Returns the exit status: 0 without a fault, else 1.

    `reference`: `<file>.py:<class>`, or the name of a component of the project. `values`: parameters of the component,
    as texts `parameter=value`. `networks`: references of networks for the checks; None or empty for the default
    networks. The code in the file runs without further permission, because the user has named the file. Raises
    StudyError if there is no such component, or if its parameters are wrong.
    """
    from study.attacks import conformance

    component = _component(reference, _parameters(values or []))
    faults = 0
    exactly(console, f"{reference}: a component of the kind '{component.kind}'")
    if isinstance(component, Defence):
        from study.defences.conformance import check

        findings = check(component)
    else:
        findings = conformance.check(component, tuple(networks or conformance.NETWORKS))
    for finding in findings:
        faults += bool(finding.fault)
        if finding.fault:
            exactly(console, f"  fault  {finding.check}: {finding.fault}")
        elif finding.skipped:
            exactly(console, f"  -      {finding.check}: not checked, {finding.skipped}")
        else:
            exactly(console, f"  ok     {finding.check}")
    exactly(console, f"{faults} fault{'' if faults == 1 else 's'}" if faults else "the component conforms")
    return 1 if faults else 0


def _component(reference: str, parameters: dict[str, object]) -> Component:
    if ":" in reference:
        own = own_code.read(reference, "study attacks check")
        own_class = own_code.load_any(own)
        part = Part(kind=own_class.kind, python=reference, sha256=own.digest, parameters=parameters)
        return own_code.made(part, own_class, reference)
    kinds = [kind for kind in registry.ALL_KINDS if registry.find(kind, reference) is not None]
    if not kinds:
        known = sorted({one.name for one in registry.all_components()})
        raise StudyError(
            f"there is no component named '{reference}'",
            accepted=f"{names(known, reference)}; or <file>.py:<class>",
        )
    found = registry.find(kinds[0], reference)
    assert found is not None, "a component of this kind has the name"
    return own_code.made(Part(kind=kinds[0], name=reference, parameters=parameters), found, reference)


def _parameters(values: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for one in values:
        key, equals, text = one.partition("=")
        if not equals:
            raise StudyError(
                f"'{one}' is not a parameter with a value", where="--set", accepted="parameter=value, such as copies=4"
            )
        found[key] = yaml_document.as_written(text, f"--set {one}").data
    return found
