"""Conversations: templates, history, streaming."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import lapwing
from lapwing.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent / "golden"
SHORT: dict[str, Any] = {"max_tokens": 12, "temperature": 0}


@cache
def model() -> Any:
    return lapwing.load(GOLDEN / "qwen3")


def test_chat_is_generation_after_the_template() -> None:
    own = model()
    messages = [{"role": "user", "content": "Hello"}]
    text = own.tokenizer.apply_chat_template(messages)
    answer = own.chat(messages, **SHORT)
    assert answer == own.generate(text, **SHORT)
    assert "".join(chunk.text for chunk in own.stream_chat(messages, **SHORT)) == answer.text


def test_several_conversations_keep_their_order() -> None:
    own = model()
    talks = [[{"role": "user", "content": text}] for text in ("Hello", "What is it?")]
    assert own.chat(talks, **SHORT) == [own.chat(talk, **SHORT) for talk in talks]


def test_history_grows_by_turns() -> None:
    chat = lapwing.Chat(model(), system="Be brief.", **SHORT)
    first = chat.send("Hello")
    assert chat.messages[0] == {"role": "system", "content": "Be brief."}
    assert chat.messages[1:] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first.text},
    ]
    second = chat.send("And now?")
    assert second == model().chat(chat.messages[:-1], **SHORT)
    chat.undo()
    assert len(chat.messages) == 3
    chat.reset()
    assert chat.messages == [{"role": "system", "content": "Be brief."}]


def test_stream_keeps_what_was_told() -> None:
    chat = lapwing.Chat(model(), **SHORT)
    texts = [chunk.text for chunk in chat.stream("Hello")]
    assert chat.messages[-1] == {"role": "assistant", "content": "".join(texts)}
    stream = chat.stream("More", ignore_eos=True)
    begun = next(stream).text
    stream.close()
    assert chat.messages[-1] == {"role": "assistant", "content": begun}


def test_failed_turn_leaves_the_history() -> None:
    chat = lapwing.Chat(model(), **SHORT)
    with pytest.raises(lapwing.OptionError):
        chat.send("Hello", top_p=9.0)
    with pytest.raises(lapwing.ContextLengthError):
        chat.send("word " * 60_000)
    assert chat.messages == []
    with pytest.raises(lapwing.OptionError, match="beams"):
        lapwing.Chat(model(), beams=4)


def test_assistant_prefill_is_continued() -> None:
    own = model()
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Well, "}]
    text = own.tokenizer.apply_chat_template(messages, add_generation_prompt=False, continue_final_message=True)
    assert text.endswith(("Well, ", "Well,"))
    answer = own.chat(messages, continue_final_message=True, **SHORT)
    assert answer == own.generate(text, **SHORT)
    with pytest.raises(lapwing.OptionError, match="exclude"):
        own.tokenizer.apply_chat_template(messages, continue_final_message=True)


def test_template_variables_are_passed() -> None:
    own = model()
    messages = [{"role": "user", "content": "Hello"}]
    answer = own.chat(messages, template_variables={"enable_thinking": False}, **SHORT)
    text = own.tokenizer.apply_chat_template(messages, enable_thinking=False)
    assert answer == own.generate(text, **SHORT)


def folder_with(tmp_path: Path, **files: str) -> Tokenizer:
    """A tokenizer whose folder has these templates; dots in names are written as two underscores."""
    (tmp_path / "tokenizer.json").write_bytes((GOLDEN / "qwen3" / "tokenizer.json").read_bytes())
    for name, text in files.items():
        path = tmp_path / name.replace("__", ".").replace("___", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Tokenizer(tmp_path)


MESSAGES = [{"role": "user", "content": "hi"}]


def test_template_of_a_file_stands_above_the_configuration(tmp_path: Path) -> None:
    config = json.dumps({"chat_template": "config {{ messages[0].content }}"})
    own = folder_with(tmp_path, tokenizer_config__json=config)
    assert own.apply_chat_template(MESSAGES) == "config hi"
    own = folder_with(tmp_path, chat_template__jinja="file {{ messages[0].content }}")
    assert own.apply_chat_template(MESSAGES) == "file hi"


def test_named_templates(tmp_path: Path) -> None:
    named = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "tools {{ tools | length }}"},
        {"name": "rag", "template": "{{ documents[0].title }}"},
    ]
    own = folder_with(tmp_path, tokenizer_config__json=json.dumps({"chat_template": named}))
    assert own.apply_chat_template(MESSAGES) == "plain"
    assert own.apply_chat_template(MESSAGES, tools=[{"name": "f"}]) == "tools 1"
    documents = [{"title": "T", "text": "x"}]
    assert own.apply_chat_template(MESSAGES, chat_template="rag", documents=documents) == "T"
    assert own.apply_chat_template(MESSAGES, chat_template="{{ 1 + 1 }}") == "2"
    with pytest.raises(lapwing.OptionError, match="default, rag, tool_use"):
        own.apply_chat_template(MESSAGES, chat_template="other")


def test_additional_templates(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "short.jinja").write_text("short", encoding="utf-8")
    own = folder_with(tmp_path, chat_template__jinja="long")
    assert own.apply_chat_template(MESSAGES, chat_template="short") == "short"


def test_without_template_the_error_says_what_to_do(tmp_path: Path) -> None:
    own = folder_with(tmp_path)
    with pytest.raises(lapwing.OptionError, match="generate"):
        own.apply_chat_template(MESSAGES)


@pytest.mark.parametrize("messages", [[], "hi", [{"content": "x"}], [3], {"role": "user"}, [{"role": 3}]])
def test_bad_messages_raise(messages: Any) -> None:
    with pytest.raises(lapwing.OptionError, match=r"message|chat template"):
        model().tokenizer.apply_chat_template(messages)


def test_functions_become_tools(tmp_path: Path) -> None:
    own = folder_with(tmp_path, chat_template__jinja="{{ tools | tojson }}")

    def weather(city: str, days: int = 1, unit: str | None = None) -> float:
        """The weather.

        Args:
            city: name, such as Bern
            days: how far ahead
            unit: of degrees (choices: ["c", "f"])

        Returns:
            degrees
        """
        return 0.0

    found = json.loads(own.apply_chat_template(MESSAGES, tools=[weather]))
    function = found[0]["function"]
    assert function["name"] == "weather"
    assert function["description"] == "The weather."
    assert function["parameters"]["required"] == ["city"]
    assert function["parameters"]["properties"]["days"] == {
        "type": "integer",
        "description": "how far ahead",
    }
    assert function["parameters"]["properties"]["unit"]["enum"] == ["c", "f"]
    assert function["return"] == {"type": "number", "description": "degrees"}
    with pytest.raises(lapwing.OptionError, match="docstring"):
        own.apply_chat_template(MESSAGES, tools=[lambda x: x])


# Constructs of widely used templates, rendered by jinja2 with the settings of transformers as the oracle.
CONSTRUCTS = {
    "chatml": "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "alternate": "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}{{ m.content }}{% endfor %}",
    "slice": "{% set rest = messages[1:] %}{{ rest | length }} {{ messages[-1]['content'][:3] }} {{ messages[::-1][0].role }}",
    "namespace": "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.found = true %}{% set ns.n = ns.n + 1 %}{% endif %}{% endfor %}{{ ns.found }} {{ ns.n }}",
    "trim": "{{ messages[0]['content'] | trim }}|{{ messages[0].content.strip() }}|{{ '\n x '.lstrip('\n') }}|{{ 'xay'.rstrip('y') }}",
    "split": "{{ 'a</t>b</t>c'.split('</t>')[-1] }}{{ 'a,b'.split(',') | join('+') }}",
    "replace": "{{ 'a-b'.replace('-', '+') }}{{ 'AbC'.lower() }}{{ 'abc'.upper() }}{{ 'abc' | upper }}{{ 'a b'.title() }}{{ 'ab' | capitalize }}",
    "startswith": "{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith('x') }}{{ 'b' in 'abc' }}{{ 'z' not in 'abc' }}",
    "tojson": "{{ {'a': 1, 'b': [true, none, 'ü<&\"']} | tojson }}{{ [1, 2.5] | tojson(indent=2) }}",
    "defined": "{{ x is defined }}{{ messages is defined }}{{ x is not defined }}{{ none is none }}{{ tools is not none }}",
    "default": "{{ x | default('d') }}{{ '' | default('e', true) }}{{ messages[0].get('missing', 'g') }}",
    "types": "{{ 'a' is string }}{{ 1 is number }}{{ {} is mapping }}{{ [] is iterable }}{{ [1] is sequence }}{{ true is boolean }}{{ 3 is odd }}",
    "macro": "{% macro say(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ say('q') }}{{ say('q', b='r') }}",
    "loop": "{% for m in messages %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "loop neighbours": "{% for m in messages %}{{ loop.previtem.role if loop.previtem }}/{{ loop.nextitem.role if loop.nextitem is defined else '-' }};{% endfor %}",
    "break": "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}{% for i in range(4) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "filter loop": "{% for m in messages if m.role == 'user' %}{{ m.content }}{% else %}none{% endfor %}",
    "selectattr": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | join(',') }}",
    "whitespace": "  {%- for m in messages -%}\n  {{- m.role -}}\n  {%- endfor -%}\n  end",
    "blocks of lines": "{% if true %}\n  a\n{% endif %}\nb\n  {# note #}\nc",
    "ternary": "{{ 'a' if messages | length > 2 else 'b' }}{{ 'only' if false }}",
    "items": "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for k in {'z': 1} %}{{ k }}{% endfor %}{{ {'b': 1, 'a': 2} | dictsort }}",
    "concatenate": "{{ 'a' ~ 1 ~ true }}{{ 'x' * 3 }}{{ [1] + [2] }}{{ 7 // 2 }}{{ 7 % 3 }}{{ 2 ** 3 }}",
    "raw": "{% raw %}{{ kept }}{% endraw %}",
    "set block": "{% set text %}in {{ messages[0].role }}{% endset %}{{ text | trim }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "content parts": "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}",
    "tool calls": "{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls %}{{ m.tool_calls[0].function.arguments | tojson }}{% endif %}{% endfor %}none",
    "first last": "{{ messages | first | tojson }}{{ (messages | last).role }}{{ [3, 1] | sort | join }}{{ [1, 1] | unique | list | length }}",
    "indent": "{{ 'a\nb' | indent(2) }}|{{ 'a\nb' | indent(2, first=true) }}|{{ [1, 2] | string }}|{{ 'a' | length }}",
    "splitlines": "{{ 'a\nb'.splitlines() | length }}{{ 'abab'.count('ab') }}{{ 'abc'.find('c') }}{{ '%s-%d' | format('x', 3) }}",
    "nested": "{% set s = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}{{ bos_token }}[INST] {{ s + messages[-1]['content'] }} [/INST]{{ eos_token }}",
    "strftime_now": "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%Y-%m-%d') }}|{{ strftime_now('%A %B %-d %j %y %%') }}|{% if strftime_now is defined %}{{ strftime_now('%d %B %Y') }}{% endif %}",
    "map": "{{ messages|map(attribute='content')|first }}{{ messages | map('upper') | list | length }}",
    "methods of objects": "{% set d = {'a':1,'b':2} %}{{ d.keys()|list }}{{ d.values()|list }}{{ d|length }}{{ d['a'] }}{{ d.get('z') }}{{ d.get('z', 3) }}{{ 'a' in d }}{{ d|items|list }}",
    "lists as text": "{{ [1,'a',none,true,1.0,{'k':'v'}] }}",
    "objects as text": "{{ {'it\\'s': \"q\\\"\"} }}",
    "tojson options": "{{ {'b':1,'a':'ü'}|tojson(sort_keys=true) }}{{ {'a':'ü'}|tojson(ensure_ascii=true) }}{{ {'a':[1,2]}|tojson(separators=(',',':')) }}{{ {'a':[]}|tojson(indent=4) }}",
    "tojson of messages": "{{ messages|tojson(indent=4) }}",
    "conversions": "{{ '3'|int + 1 }}{{ 3|string + 'a' }}{{ '3.5'|float }}{{ 3.7|int }}{{ -3|abs }}{{ 3.14159|round(2) }}",
    "filters of lists": "{{ [1,2,3,4]|batch(2)|list }}{{ [3,1,2]|sort(reverse=true) }}{{ ['b','a']|sort }}{{ [1,2]|sum }}{{ [1,2]|max }}{{ [1,2]|min }}",
    "groupby": "{% for k,g in messages|groupby('role') %}{{ k }}:{{ g|length }};{% endfor %}",
    "reverse": "{{ 'abc'|reverse }}{{ [1,2]|reverse|list }}{{ 'abc'[::-1] }}",
    "strip of characters": "{{ 'xxaxx'.strip('x') }}{{ ' a '.rstrip() }}{{ 'a\\n'.strip('\\n') }}",
    "split from both sides": "{{ 'a b  c'.split() }}{{ 'a,b,c'.split(',',1) }}{{ 'a,b,c'.rsplit(',',1) }}{{ 'a,b'.rsplit(',') }}{{ ' a  b c '.rsplit(none, 1) }}{{ 'abc'.partition('b')[2] }}",
    "join and format": "{{ ','.join(['a','b']) }}{{ '{} {x}'.format(1,x=2) }}{{ 'Ab'.swapcase() }}",
    "kinds of letters": "{{ 'abc'.isalpha() }}{{ '12'.isdigit() }}{{ 'ab'.isupper() }}{{ 'a b'.capitalize() }}",
    "prefixes and padding": "{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}{{ '-7'.zfill(4) }}{{ 'ab'.center(5) }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ 'abc'.center(4, '*') }}",
    "list in a namespace": "{% set ns=namespace(l=[]) %}{% for m in messages %}{% set ns.l = ns.l + [m.role] %}{% endfor %}{{ ns.l }}",
    "none in a namespace": "{% set ns=namespace(a=none) %}{{ ns.a is none }}{% set ns.a = {'x':1} %}{{ ns.a.x }}",
    "comparisons": "{{ 1 < 2 }}{{ 'a' < 'b' }}{{ 1 == 1.0 }}{{ 'a' == 1 }}{{ none == false }}{{ not none }}{{ 1 and 0 }}{{ '' or 'x' }}",
    "negative slices": "{{ messages[-2:]|length }}{{ 'hello'[1:-1] }}{{ [1,2,3][:2] }}{{ 'hello'[-3:] }}",
    "call blocks": "{% macro m(x) %}{{ caller() }}{{ x }}{% endmacro %}{% call m(1) %}in{% endcall %}",
    "recursive macro": "{% macro f(n) %}{% if n %}{{ n }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(4) }}",
    "recursive loop": "{% for k in [[1,[2]],[3,[]]] recursive %}{{ k[0] if k is sequence else k }}{{ loop(k[1]) if k is sequence and k[1] }}{% endfor %}",
    "filter block": "{% filter upper %}abc{% endfilter %}",
    "loop cycle": "{% for m in messages %}{{ loop.cycle('a','b') }}{{ loop.index0 }}{{ loop.revindex0 }}{{ loop.depth }}{% endfor %}",
    "loop changed": "{% for m in messages %}{{ loop.changed(m.role) }}{% endfor %}",
    "undefined attributes": "{{ messages[0].nothing }}{{ messages[0]['nothing'] }}{% if messages[0].tool_calls %}x{% endif %}{{ messages[0].nothing is defined }}",
    "index beyond the end": "{{ messages[99] }}|{{ messages[99] is defined }}",
    "escapes": "{{ '<a>&' }}{{ '<a>'|escape }}{{ '<a>'|e }}{{ '<a>'|safe }}",
    "words": "{{ 'a b c'|wordcount }}{{ 'a b'|title }}{{ 'abc'|first }}{{ 'abc'|last }}{{ 'aXb'|lower }}{{ 'a'|list }}",
    "select and reject": "{{ messages|selectattr('tool_calls','defined')|list|length }}{{ messages|selectattr('role','in',['user','tool'])|list|length }}{{ [1,2,3]|select('gt',1)|list }}{{ [1,2,3]|reject('odd')|list }}",
    "expressions over lines": "{{-\n  'a'\n  ~\n  'b'\n-}}\n x {%- if true -%} y {%- endif -%} z",
    "comments": "a{#- x -#} b {# {{ }} #}c",
    "kept white space": "  {%+ if true %}a{%+ endif %}\n  {%+ set x = 1 %}b",
    "line ends of other systems": "a\r\nb",
    "unicode": "{{ 'é'|upper }}{{ '你'|length }}{{ '\\u00e9' }}{{ 'ß'|upper }}",
    "escapes in texts": "{{ 'a\\tb\\n\\\\n\\'' }}{{ \"a\\\"b\" }}",
    "tuples and empty values": "{{ ['a'] + ['b'] }}{{ ('a','b') }}{{ (1,) }}{{ [] }}{{ {} }}",
    "two at once": "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "dict": "{% set d = dict(a=1) %}{{ dict(d, b=2) }}",
    "range": "{{ range(3)|list }}{{ range(1,7,2)|list }}{{ range(3)|length }}",
    "loops in loops": "{% for a in [1,2] %}{% for b in ['x','y'] %}{{ a }}{{ b }}{{ loop.index }}{% endfor %}{% endfor %}",
    "elif": "{% if false %}a{% elif messages|length == 3 %}b{% else %}c{% endif %}",
    "with": "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}",
    "tool arguments": "{% for m in messages %}{% if m.tool_calls %}{% for t in m.tool_calls %}{{ t.function.name }}({{ t.function.arguments|tojson }}){% for k, v in t.function.arguments.items() %}{{ k }}={{ v|tojson if v is not string else v }}{% endfor %}{% endfor %}{% endif %}{% endfor %}",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}",
    "arithmetic": "{{ -7 // 2 }}{{ -7 % 3 }}{{ 7 // 2.0 }}{{ 2**0.5 > 1.4 }}{{ 2**-1 }}",
    "chained filters": "{{ messages[0].content | trim | replace('H','J') | upper | length }}",
    "lines with their ends": "{{ 'a\\nb'.splitlines() }}{{ 'a\\nb'.splitlines(true) }}",
    "index of a part": "{{ 'abc'.index('b') }}{{ 'abcabc'.rfind('b') }}{{ 'abcab'.rindex('b') }}{{ 'a.b'.split('.')|last }}",
    "tojson of values": "{{ true|tojson }}{{ none|tojson }}{{ 'a/b'|tojson }}{{ 1.0|tojson }}{{ 1e20|tojson }}{{ 'é\\n'|tojson }}{{ '<>&\\''|tojson }}",
}

TALK = [
    {"role": "user", "content": "  Hello, 'naïve' <b>\n"},
    {"role": "assistant", "content": 'I\'m "fine".'},
    {"role": "user", "content": "你好?"},
]


def oracle(source: str, **variables: Any) -> str:
    jinja2 = pytest.importorskip("jinja2")
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **rest: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **rest)

    def fail(text: str) -> None:
        raise jinja2.exceptions.TemplateError(text)

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = fail
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return str(environment.from_string(source).render(**variables))


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_constructs_of_templates_render_as_jinja2_does(name: str) -> None:
    own = model().tokenizer
    source = CONSTRUCTS[name]
    for prompt in (True, False):
        names = {"messages": TALK, "tools": None, "documents": None, "add_generation_prompt": prompt, **own.specials}
        before = oracle(source + "{# #}", **names)
        found = own.apply_chat_template(TALK, add_generation_prompt=prompt, chat_template=source + "{# #}")
        assert found in (before, oracle(source + "{# #}", **names))  # the date may change in between


def test_endless_templates_are_bounded() -> None:
    own = model().tokenizer
    for source in (
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{{ 'x' * 10000000000 }}",
        "{{ messages[0]",
    ):
        with pytest.raises(lapwing.OptionError, match="chat template"):
            own.apply_chat_template(MESSAGES, chat_template=source)
