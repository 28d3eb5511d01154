//! One HTML page that needs nothing else: style, escaping, tables. No scripts, no other files.

/// The look, light and dark. `--c0` and on are the colours of series.
const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fbfbf9;--ink:#1d2126;--soft:#69707a;--line:#dcdcd6;\
--c0:#9aa3ad;--c1:#2f6fb0;--c2:#d2872c;--c3:#2f8f6b;--c4:#a8479b;--c5:#c0453c;--c6:#6a62c4;\
--c7:#8a7a23;--c8:#1d8fa3;--c9:#5d6a78}\
@media(prefers-color-scheme:dark){:root{--paper:#15181c;--ink:#e4e6e9;--soft:#98a0aa;\
--line:#333941;--c0:#6c7681;--c1:#6aa9e6;--c2:#e8ab5c;--c3:#5fc39b;--c4:#d58acb;--c5:#ec8078;\
--c6:#a49df0;--c7:#c9b85a;--c8:#5cc3d6;--c9:#a2afbd}}\
body{margin:2.5rem auto;max-width:60rem;padding:0 1.25rem;background:var(--paper);\
color:var(--ink);font:15px/1.5 system-ui,sans-serif}\
h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.05rem;margin:2.25rem 0 .5rem}\
h3{font-size:.9rem;font-weight:500;margin:1.25rem 0 .25rem}\
p{color:var(--soft);margin:.25rem 0 1rem}svg{width:100%;height:auto;display:block;overflow:visible}\
svg text{fill:var(--ink);font:11px system-ui,sans-serif}svg .soft{fill:var(--soft)}\
svg .line{stroke:var(--line)}table{border-collapse:collapse;width:100%}\
th,td{padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--line);text-align:left;\
font-variant-numeric:tabular-nums}th{font-weight:500;color:var(--soft)}\
.key{display:inline-block;width:.7rem;height:.7rem;border-radius:2px;margin:0 .3rem 0 .9rem}.key:first-child{margin-left:0}";

/// Text as it may stand in HTML, in an attribute too.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}

/// A whole page. `body` is HTML; title and introduction are plain text.
pub(super) fn page(title: &str, introduction: &str, body: &str) -> String {
    let (title, introduction) = (escape(title), escape(introduction));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n<p>{introduction}</p>\n{body}</body>\n</html>\n"
    )
}

/// A part of the page under a heading of plain text; `content` is HTML.
pub(super) fn section(heading: &str, content: &str) -> String {
    format!("<h2>{}</h2>\n{content}\n", escape(heading))
}

/// A paragraph of plain text.
pub(super) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// What a picture below shows, in plain words.
pub(super) fn caption(names: &[String]) -> String {
    format!("<h3>{}</h3>\n", escape(&names.join("; ")))
}

/// The colour of a series by number.
pub(super) fn color(series: usize) -> String {
    format!("var(--c{})", series % 10)
}

/// Names with the colours of their series.
pub(super) fn legend<'a>(names: impl Iterator<Item = (usize, &'a str)>) -> String {
    let keys = names.map(|(series, name)| {
        let (color, name) = (color(series), escape(name));
        format!("<span class=\"key\" style=\"background:{color}\"></span>{name}")
    });
    format!("<p>{}</p>\n", keys.collect::<String>())
}

/// A table of plain texts.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let mut html = format!("<table>\n{}", cells("th", &mut head.iter().copied()));
    for row in rows {
        html += &cells("td", &mut row.iter().map(String::as_str));
    }
    html + "</table>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_named_becomes_markup() {
        let nasty = "<script>alert(\"x\" & 'y')</script>";
        let html = page(
            nasty,
            nasty,
            &section(nasty, &table(&[nasty], &[vec![nasty.into()]])),
        ) + &legend([(1, nasty)].into_iter());
        assert!(!html.contains("<script"), "{html}");
        assert_eq!(html.matches("&lt;script&gt;").count(), 7);
        assert!(html.contains("alert(&quot;x&quot; &amp; &#39;y&#39;)"));
    }

    #[test]
    fn a_page_needs_nothing_else() {
        let html = page("t", "i", "");
        for foreign in ["http", "src=", "<link", "<script", "@import", "url("] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }
}
