//! The description as one page of HTML: no scripts, nothing from elsewhere.

use std::collections::BTreeMap;

use serde_json::Value;

use super::schema;

pub const STYLE: &str = include_str!("style.css");
const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

/// An operation with its address.
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    said: &'a Value,
}

pub fn render(document: &Value) -> String {
    let mut tags: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for method in METHODS {
            if let Some(said) = item.get(method) {
                let tag = said["tags"][0].as_str().unwrap_or("Other");
                let operation = Operation { method, path, said };
                tags.entry(tag).or_default().push(operation);
            }
        }
    }
    let title = escape(text(&document["info"]["title"]));
    let about = prose(text(&document["info"]["description"]));
    let contents: String = tags.iter().map(|(tag, all)| contents(tag, all)).collect();
    let sections: String = tags
        .iter()
        .map(|(tag, all)| {
            let all: String = all.iter().map(|one| operation(one, document)).collect();
            format!("<section><h2>{}</h2>{all}</section>", escape(tag))
        })
        .collect();
    let schemas: String = document["components"]["schemas"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, schema)| named_schema(name, schema))
        .collect();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}: API</title><style>{STYLE}</style></head><body>\
         <header><h1>{title}</h1>{about}\
         <p>For programs: <a href=\"/openapi.json\">openapi.json</a></p></header>\
         <nav aria-label=\"Contents\">{contents}<h2><a href=\"#schemas\">Schemas</a></h2></nav>\
         <main>{sections}<section id=\"schemas\"><h2>Schemas</h2>{schemas}</section></main>\
         </body></html>\n"
    )
}

fn contents(tag: &str, operations: &[Operation]) -> String {
    let items: String = operations
        .iter()
        .map(|one| {
            let (id, signature) = (text(&one.said["operationId"]), signature(one));
            format!("<li><a href=\"#{}\">{signature}</a></li>", escape(id))
        })
        .collect();
    format!("<h2>{}</h2><ul>{items}</ul>", escape(tag))
}

fn signature(one: &Operation) -> String {
    let method = one.method.to_ascii_uppercase();
    format!(
        "<span class=\"method {}\">{method}</span> <code>{}</code>",
        one.method,
        escape(one.path)
    )
}

fn operation(one: &Operation, document: &Value) -> String {
    let said = one.said;
    let access = match (said["x-permission"].as_str(), said["security"].as_array()) {
        (Some(permission), _) => format!("Needs <code>{}</code>.", escape(permission)),
        (None, Some(schemes)) if schemes.is_empty() => "Open to all.".to_owned(),
        _ if one.path.contains("/operator/") => "For operators.".to_owned(),
        _ if one.path.contains("/webhooks/") => "Signed by Stripe.".to_owned(),
        _ => "Needs a token.".to_owned(),
    };
    format!(
        "<article id=\"{id}\"><h3>{signature}</h3><p><strong>{summary}</strong>. {access}</p>\
         {description}{parameters}{body}{answers}</article>",
        id = escape(text(&said["operationId"])),
        signature = signature(one),
        summary = escape(text(&said["summary"])),
        description = prose(text(&said["description"])),
        parameters = parameters(&said["parameters"], document),
        body = body(&said["requestBody"]),
        answers = answers(&said["responses"], document),
    )
}

fn parameters(list: &Value, document: &Value) -> String {
    let rows: String = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|parameter| {
            let parameter = resolve(parameter, document);
            let needed = if parameter["required"] == true {
                ", needed"
            } else {
                ""
            };
            format!(
                "<tr><td><code>{}</code></td><td>{}{needed}</td><td>{}</td><td>{}</td></tr>",
                escape(text(&parameter["name"])),
                escape(text(&parameter["in"])),
                schema::short(&parameter["schema"]),
                escape(text(&parameter["description"])),
            )
        })
        .collect();
    if rows.is_empty() {
        return rows;
    }
    format!("<h4>Parameters</h4><table><tbody>{rows}</tbody></table>")
}

fn body(body: &Value) -> String {
    let Some(content) = body["content"].as_object() else {
        return String::new();
    };
    let about = prose(text(&body["description"]));
    format!("<h4>Body</h4>{about}{}", contents_of(content))
}

fn contents_of(content: &serde_json::Map<String, Value>) -> String {
    content
        .iter()
        .map(|(kind, content)| {
            let schema = schema::full(&content["schema"]);
            format!("<p class=\"kind\">{}</p>{schema}", escape(kind))
        })
        .collect()
}

fn answers(responses: &Value, document: &Value) -> String {
    let answers: String = responses
        .as_object()
        .into_iter()
        .flatten()
        .map(|(status, response)| {
            let response = resolve(response, document);
            let shown = response["content"].as_object();
            let content = shown.map(contents_of).unwrap_or_default();
            format!(
                "<dt><code>{}</code></dt><dd>{}{content}</dd>",
                escape(status),
                escape(text(&response["description"])),
            )
        })
        .collect();
    format!("<details><summary>Answers</summary><dl>{answers}</dl></details>")
}

fn named_schema(name: &str, schema: &Value) -> String {
    format!(
        "<article id=\"schema-{name}\"><h3><code>{name}</code></h3>{}{}</article>",
        prose(text(&schema["description"])),
        schema::full(schema),
        name = escape(name),
    )
}

/// What a reference leads to; anything else is itself.
fn resolve<'a>(value: &'a Value, document: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().and_then(|at| at.strip_prefix('#'));
    target.and_then(|at| document.pointer(at)).unwrap_or(value)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A paragraph, with `code` as such.
fn prose(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let parts = text.split('`').enumerate().map(|(n, part)| {
        let part = escape(part);
        if n % 2 == 1 {
            format!("<code>{part}</code>")
        } else {
            part
        }
    });
    format!("<p>{}</p>", parts.collect::<String>())
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_of_a_description_becomes_markup() {
        let nasty = "<script>\"&'";
        let page = render(&json!({
            "info": {"title": nasty, "description": nasty},
            "paths": {nasty: {"get": {
                "tags": [nasty], "operationId": nasty, "summary": nasty, "description": nasty,
                "parameters": [{"name": nasty, "in": nasty, "description": nasty,
                                "schema": {"type": nasty, "example": nasty, "enum": [nasty]}}],
                "responses": {nasty: {"description": nasty, "content": {nasty: {"schema":
                    {"type": "object", "properties": {nasty: {"$ref": nasty}}}}}}},
            }}},
            "components": {"schemas": {nasty: {"description": nasty}}},
        }));
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;&quot;&amp;'"));
    }

    #[test]
    fn every_operation_and_schema_has_its_place() {
        let document = crate::app::api::document();
        let page = render(&document);
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                let id = text(&operation["operationId"]);
                assert!(page.contains(&format!("<article id=\"{id}\">")), "{id}");
                assert!(page.contains(&format!("<a href=\"#{id}\">")), "{id}");
            }
        }
        // Every link within the page leads somewhere.
        for link in page.split("href=\"#").skip(1) {
            let target = link.split('"').next().unwrap();
            assert!(page.contains(&format!("id=\"{target}\"")), "{target}");
        }
    }
}
