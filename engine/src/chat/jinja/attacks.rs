//! Templates that nest, loop, grow and hold themselves: each is an error, soon, in bounded memory
//! and on a small stack.

use std::time::{Duration, Instant};

use super::{Error, Host, Input, Jinja, Limits};

/// Renders on a stack as small as any thread of a program may have.
fn render(source: String) -> Result<String, Error> {
    render_within(Limits::of(100), source)
}

fn render_within(limits: Limits, source: String) -> Result<String, Error> {
    let thread = std::thread::Builder::new().stack_size(1 << 19).spawn(move || {
        let now = |layout: &str| Ok(layout.to_owned());
        let host = Host { now: &now, stop: &|| false };
        let variables = [("s", Input::text("text")), ("l", Input::List(vec![Input::Int(1)]))];
        Jinja::parse(&source)?.render(&variables, limits, &host)
    });
    thread.unwrap().join().expect("no panic")
}

fn fails(source: impl Into<String>, why: &str) {
    fails_within(Limits::of(100), source, why);
}

fn fails_within(limits: Limits, source: impl Into<String>, why: &str) {
    let source = source.into();
    let start: String = source.chars().take(100).collect();
    let begun = Instant::now();
    let error = render_within(limits, source).expect_err(&start).to_string();
    assert!(error.contains(why) && error.len() < 700, "{start}: {error}");
    // Seconds at most, also where nothing is optimised and others work beside it.
    assert!(begun.elapsed() < Duration::from_secs(60), "{start}: {:?}", begun.elapsed());
}

/// `open` and `close` around a text, so often.
fn nested(n: usize, open: &str, inner: &str, close: &str) -> String {
    open.repeat(n) + inner + &close.repeat(n)
}

/// A variable that begins as `start` and becomes `step` so often; `after` uses it.
fn grown(times: usize, start: &str, step: &str, after: &str) -> String {
    let grow = format!("{{% for i in range({times}) %}}{{% set n.x = {step} %}}{{% endfor %}}");
    format!("{{% set n = namespace(x={start}) %}}{grow}{after}")
}

/// The text in `depth` loops within one another, each as long as loops may be.
fn looped(depth: usize, inner: &str) -> String {
    nested(depth, "{% for a in range(99999) %}", inner, "{% endfor %}")
}

#[test]
fn deep_sources() {
    for n in [200, 50_000] {
        for (open, inner, close) in [
            ("{{ ", "1", " }}"),
            ("not ", "1", ""),
            ("- ", "1", ""),
            ("+", "1", ""),
            ("(", "1", ")"),
            ("[", "", "]"),
            ("{1:", "1", "}"),
            ("f(", "1", ")"),
            ("l[", "1", "]"),
            ("1 if 1 else(", "1", ")"),
            ("1 + (", "1", ")"),
            ("s|default(", "1", ")"),
            ("1 is sameas(", "1", ")"),
            ("(not -", "1", ")"),
        ] {
            let n = n.min(super::MAX_SOURCE / (open.len() + close.len() + 1));
            fails(format!("{{{{ {} }}}}", nested(n, open, inner, close)), "nests deeper than 100");
        }
        for (open, close) in [
            ("{% if 1 %}", "{% endif %}"),
            ("{% for x in l %}", "{% endfor %}"),
            ("{% set x %}", "{% endset %}"),
            ("{% macro m() %}", "{% endmacro %}"),
            ("{% filter upper %}", "{% endfilter %}"),
            ("{% call f() %}", "{% endcall %}"),
            ("{% with %}", "{% endwith %}"),
            ("{% generation %}", "{% endgeneration %}"),
        ] {
            let n = n.min(super::MAX_SOURCE / (open.len() + close.len() + 1));
            fails(nested(n, open, "", close), "nests deeper than 100");
        }
        fails(format!("{{% set {} %}}", nested(n, "(", "x", ")")), "nests deeper than 100");
    }
    fails("x".repeat(super::MAX_SOURCE + 1), "it is longer than 256 KB");
}

#[test]
fn long_sources_are_not_deep() {
    let sum = format!("{{{{ 0{} }}}}", " + 1".repeat(10_000));
    assert_eq!(render(sum).unwrap(), "10000");
    let filters = format!("{{{{ 's'{} }}}}", "|upper|lower".repeat(10_000));
    assert_eq!(render(filters).unwrap(), "s");
    let branches =
        format!("{{% if 0 %}}{}{{% else %}}x{{% endif %}}", "{% elif 0 %}".repeat(10_000));
    assert_eq!(render(branches).unwrap(), "x");
    let deep = format!("{{{{ {} }}}}", nested(90, "(1 and not -[", "1", "][0])"));
    fails(deep, "nests deeper");
    let deep = format!("{{{{ {} }}}}", nested(45, "[", "1", "]"));
    assert_eq!(render(deep).unwrap(), nested(45, "[", "1", "]"));
}

#[test]
fn deep_calls() {
    let deep = "too deeply";
    fails("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", deep);
    let wide = nested(15, "(1 and not -[", "m()", "][0])");
    fails(format!("{{% macro m() %}}{{{{ {wide} }}}}{{% endmacro %}}{{{{ m() }}}}"), deep);
    let blocks = nested(40, "{% if 1 %}{% for x in l %}", "{{ m() }}", "{% endfor %}{% endif %}");
    fails(format!("{{% macro m() %}}{blocks}{{% endmacro %}}{{{{ m() }}}}"), deep);
    fails("{% macro m(x=m()) %}{% endmacro %}{{ m() }}", deep);
    fails("{% macro m() %}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}", deep);
    fails("{% for x in l recursive %}{{ loop(l) }}{% endfor %}", deep);
    fails(
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        deep,
    );
    let maps = "'map', ".repeat(5_000);
    fails(format!("{{{{ 's'|map({maps} 'upper') }}}}"), deep);
}

#[test]
fn values_that_hold_themselves() {
    let deep = "too deeply";
    let own = "{% set n = namespace() %}{% set n.n = n %}";
    assert_eq!(render(format!("{own}{{{{ n.n.n.n == n }}}}")).unwrap(), "True");
    for show in ["n", "n ~ ''", "[n]", "n|string", "'%s' % n", "'%r' % n", "n|pprint"] {
        fails(format!("{own}{{{{ {show} }}}}"), deep);
    }
    fails(format!("{own}{{{{ n|tojson }}}}"), "cannot be written as JSON");
    fails(format!("{own}{{{{ [{{'a': n}}]|tojson }}}}"), "cannot be written as JSON");
    for step in ["[n.x]", "{1: n.x}", "(n.x,)", "[n.x].count", "joiner(n.x)", "cycler(n.x)"] {
        fails(grown(9999, "'a'", step, ""), deep);
    }
    assert!(render("{% for x in l %}{{ loop.changed(loop) }}{% endfor %}".to_owned()).is_ok());
}

#[test]
fn growth() {
    let memory = "more than 32 MB of memory";
    for step in [
        "n.x ~ n.x",
        "n.x + n.x",
        "n.x * 2",
        "[n.x, n.x]|join",
        "'%s%s' % (n.x, n.x)",
        "n.x.join([n.x, n.x])",
        "n.x|replace('', n.x)",
        "'{0}{0}'.format(n.x)",
        "n.x|indent(1000000, true)",
        "n.x|center(10 * n.x|length)",
        "(n.x ~ n.x)[::-1]",
    ] {
        for after in ["", "{{ n.x }}"] {
            fails(grown(60, "'xxxxxxxx'", step, after), memory);
        }
    }
    for step in ["n.x + n.x", "n.x * 2", "(n.x + n.x)|list", "[n.x + n.x][0]"] {
        fails(grown(60, "[1, 2]", step, ""), memory);
    }
    for one in [
        "'a' * 10**9",
        "[1] * 10**9",
        "10**9 * 'a'",
        "'%2000000000d' % 1",
        "'%2000000000d'|format(1)",
        "'%*d' % (2000000000, 1)",
        "'{:2000000000}'.format(1)",
        "'{:>2000000000}'.format('')",
        "'a'|center(10**9)",
        "'a'|indent(10**9, true)",
        "'a'.zfill(10**9)",
        "'a'.ljust(10**9)",
        "'a'.rjust(10**9)",
        "'a'.center(10**9)",
        "'\t'.expandtabs(10**9)",
        "l|batch(10**9, 1)",
        "l|slice(10**9)",
        "('a' * 10**6)|list",
        "('a ' * 10**6).split()",
        "('a\n' * 10**6).splitlines()",
        "'\u{1F600}' * 10**7",
        "('%s' * 10**6) % (('x' * 99,) * 10**6)",
    ] {
        fails(format!("{{% set x = {one} %}}"), memory);
        fails(format!("{{{{ {one} }}}}"), memory);
    }
    for one in [
        "'%.2000000000f' % 1",
        "'%.2000000000d' % 1",
        "'{:.2000000000f}'.format(1.5)",
        "'{:.70000e}'.format(1.5)",
    ] {
        fails(format!("{{{{ {one} }}}}"), "precision is too large");
    }
    fails("{{ l|tojson(indent=10**9) }}", "too wide");
    fails("{% for i in range(99999) %}0123456789{% endfor %}", "it writes more than 257 KB");
    let text = looped(2, &"0123456789".repeat(30));
    fails(format!("{{% set x %}}{text}{{% endset %}}"), memory);
    fails("{{ ('x' * 300000) }}", "it writes more than");
    fails(looped(2, "{% set x = namespace(a=1) %}"), memory);
    // Each loop keeps its own.
    let kept = "{% for a in l %}{% set x = loop.changed('s' * 4000000) %}";
    fails(nested(20, kept, "", "{% endfor %}"), memory);
}

#[test]
fn work_without_end() {
    // A tenth of the work, so that the test ends soon.
    let limits = Limits { work: Limits::of(100).work / 10, ..Limits::of(100) };
    let fails = |source: String, why| fails_within(limits, source, why);
    let endless = "does not come to an end";
    fails_within(Limits::of(100), looped(3, ""), endless);
    // Few values, of which each holds the one before twice.
    let twice = |after| grown(40, "[0]", "[n.x, n.x]", after);
    fails(twice("{{ n.x == n.x|list }}"), endless);
    fails(twice("{% set x %}{{ n.x }}{% endset %}"), "");
    fails(twice("{% set x = n.x|tojson %}"), "");
    fails(looped(2, "{% set x = a + 1 %}"), endless);
    let long = "{% set s = 's' * 100000 %}".to_owned();
    for step in ["range(99999)|sort", "s.count('ssb')", "s[50000]", "s|length", "s == s ~ ''"] {
        let step = format!("{{% set x = {step} %}}");
        fails(long.clone() + &looped(1, &step), endless);
    }
    fails("{{ (range(99999)|list + range(99999)|list)|unique|length }}".to_owned(), endless);
    fails("{{ range(10**9) }}".to_owned(), "range() is too big");
    let widest = "{{ range(-9223372036854775807, 9223372036854775807) }}";
    fails(widest.to_owned(), "range() is too big");
}

#[test]
fn numbers_beyond_64_bits() {
    for sum in [
        "9223372036854775807 + 1",
        "-9223372036854775807 - 2",
        "2**63",
        "2**10**9",
        "9999999999 * 9999999999",
        "(-9223372036854775807 - 1) // -1",
        "-(-9223372036854775807 - 1)",
    ] {
        fails(format!("{{{{ {sum} }}}}"), "64 bits");
    }
    fails("{{ 99999999999999999999999999 }}", "64 bits");
    for fine in [
        "{{ (-9223372036854775807 - 1) % -1 }}",
        "{{ (-9223372036854775807 - 1)|abs }}",
        "{{ 's'[-9223372036854775807:9223372036854775807:9223372036854775807] }}",
        "{{ l[9223372036854775807] }}",
        "{{ (-9223372036854775807 - 1) is divisibleby(-1) }}",
        "{{ 1e308 * 10 | int }}",
        "{{ 's'.find('t', -9223372036854775807) }}",
        "{{ range(5, 9223372036854775807, 9223372036854775807)|list }}",
        "{{ 1.5|round(999999) }}",
        "{{ 's'[9223372036854775807] }}",
        "{{ '%d' % 1e300 }}",
        "{{ '%c' % 65 }}",
    ] {
        assert!(render(fine.to_owned()).is_ok(), "{fine}: {:?}", render(fine.to_owned()));
    }
}

#[test]
fn every_cut_of_a_template_is_an_error_or_a_text() {
    let source = "{%- macro f(a, b='c') -%}{{ a['x'].y[1:2] | d('e') }}{%- endmacro %}{# c #}\
        {% for k, v in {'a': (1, 2.5e3)}.items() if k is not none recursive %}\
        {% set n.x = f(*v, **{}) %}{% if 'é' in k ~ \"\\u00e9\" %}{% elif not -1 ** 2 %}{% else %}\
        {% break %}{% endif %}{% endfor %}\
        {% raw %}{{ }}{% endraw %}{% call(q) f(1) %}{{ 'x' if q else [1][0] }}{% endcall %}";
    assert!(Jinja::parse(source).is_ok());
    for (at, _) in source.char_indices() {
        let _ = Jinja::parse(&source[..at]);
        let _ = Jinja::parse(&source[at..]);
        let cut = source[..at].to_owned() + source[at..].chars().as_str().get(1..).unwrap_or("");
        if let Ok(jinja) = Jinja::parse(&cut) {
            let now = |_: &str| Err(String::new());
            let _ = jinja.render(&[], Limits::of(0), &Host { now: &now, stop: &|| false });
        }
    }
}

#[test]
fn whoever_stops_it_is_heard() {
    let jinja = Jinja::parse("{% for a in range(99999) %}{{ a }}{% endfor %}").unwrap();
    let now = |_: &str| Err(String::new());
    let stopped = jinja.render(&[], Limits::of(0), &Host { now: &now, stop: &|| true });
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
}
