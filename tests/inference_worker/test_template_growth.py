"""What a template that comes with a model file may not do to the worker that renders it."""

import pytest

from inference_worker import template_sandbox
from inference_worker.template_sandbox import SandboxedTemplate, TemplateBroken


def doubled(how: str) -> str:
    return (
        "{% set ns = namespace(it=START) %}"
        f"{{% for i in range(60) %}}{how}{{% endfor %}}".replace("IT", "ns.it")
    )


@pytest.mark.parametrize(
    ("start", "step"),
    [
        ("'ab'", "{% set IT = IT ~ IT %}"),
        ("'ab'", "{% set IT = IT + IT %}"),
        ("[1, 2]", "{% set IT = IT + IT %}"),
        ("3", "{% set IT = IT * IT %}"),
        ("'ab'", "{% set t %}{{ IT }}{{ IT }}{% endset %}{% set IT = t %}"),
        ("'ab'", "{% set IT = [IT, IT] | join %}"),
        ("'ab'", "{% set IT = ''.join([IT, IT]) %}"),
        ("'ab'", "{% set IT = IT | replace('a', IT) %}"),
        ("'ab'", "{% set IT = IT.replace('a', IT) %}"),
    ],
)
def test_what_doubles_is_refused_before_it_takes_the_memory(start: str, step: str) -> None:
    with pytest.raises(TemplateBroken, match=r"longer than|too large"):
        SandboxedTemplate(doubled(step).replace("START", start)).render({})


@pytest.mark.parametrize(
    "shown",
    [
        "'%1000000000d' % 1",
        "'%*d' % (1000000000, 1)",
        "'%1000000000d' | format(1)",
        "'{:>1000000000}'.format(1)",
        "'{:>{}}'.format(1, 1000000000)",
        "'a'.ljust(1000000000)",
        "'a'.zfill(1000000000)",
        "'\\t'.expandtabs(1000000000)",
        "'\\t'.expandtabs(tabsize=1000000000)",
        "'a'.translate({97: 'ab'})",
        "''.join(range(9000) | map(attribute='none', default='%9000d' % 1))",
        "('%9000d' % 1).join(range(9000) | map('string'))",
        "'a' | center(1000000000)",
        "'a\nb' | indent(1000000000)",
        "[1] | batch(1000000000, 0) | list",
        "[1] | slice(1000000000) | list",
        "[1] | tojson(indent=1000000000)",
        "lipsum(n=1000000000)",
    ],
)
def test_a_width_without_measure_is_refused(shown: str) -> None:
    with pytest.raises(TemplateBroken):
        SandboxedTemplate(f"{{{{ {shown} }}}}").render({})


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(60) }}",
        "{% set l = range(999) | list %}"
        "{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for x in [1, 2, 3] recursive %}{{ loop([1, 2, 3]) if loop.depth < 60 }}{% endfor %}",
    ],
)
def test_what_shows_nothing_ends_in_time_too(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "RENDER_TIME_MAX_S", 0.2)
    with pytest.raises(TemplateBroken, match="took over"):
        SandboxedTemplate(source).render({})


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("{% for x in l %}{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% endfor %}", None),
        ("{% for x in none_such %}x{% else %}nothing{% endfor %}", "nothing"),
        ("{% for k, v in {'a': 1}.items() %}{{ k ~ v ~ none_such ~ none }}{% endfor %}", "a1None"),
        ("{{ '** %5d **' % 3 }}{{ '%s' | format('10000') }}", "**     3 **10000"),
        ("{{ '100% 12345 {:>3}{}'.format(1, 'b') }}", "100% 12345   1b"),
        ("{{ l | join(', ') }}{{ [{'a': 1}, {'a': 2}] | join('-', attribute='a') }}", "7, 81-2"),
        ("{{ 'a b' | replace(' ', '_') }}{{ 'a b'.replace('a', '') }}", "a_b b"),
        ("{{ 'a\nb' | indent(2) }}{{ l + [9] }}{{ (1, 2) + (3,) }}", "a\n  b[7, 8, 9](1, 2, 3)"),
        ("{{ ', '.join({'a': 1, 'b': 2}.keys()) }}{{ '-'.join(l | map('string')) }}", "a, b7-8"),
        ("{{ 7 % 2 + 2 ** 3 * 2.5 }}", "21.0"),
    ],
)
def test_what_templates_do_goes_on_as_before(source: str, shown: str | None) -> None:
    expected = "1/2False 2/2True " if shown is None else shown
    assert SandboxedTemplate(source).render({"l": [7, 8]}) == expected
