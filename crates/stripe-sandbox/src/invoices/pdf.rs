//! A plain one-page PDF of an invoice, so that its link leads somewhere.

use crate::invoices::describe;
use crate::invoices::model::Invoice;
use crate::pricing::DecimalAmount;

/// The number of lines that fit on the page. Further lines are only counted.
const LINES_SHOWN: usize = 40;

/// The PDF file.
#[must_use]
pub fn document(invoice: &Invoice) -> Vec<u8> {
    let page = content(&text(invoice));
    let stream = [
        format!("<< /Length {} >>\nstream\n", page.len()).into_bytes(),
        page,
        b"\nendstream".to_vec(),
    ]
    .concat();
    let objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_vec(),
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>".to_vec(),
        stream,
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_vec(),
    ];
    assemble(&objects)
}

fn assemble(objects: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"%PDF-1.4\n".to_vec();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (index, object) in objects.iter().enumerate() {
        table.push_str(&format!("{:010} 00000 n \n", file.len()));
        file.extend_from_slice(format!("{} 0 obj\n", index + 1).as_bytes());
        file.extend_from_slice(object);
        file.extend_from_slice(b"\nendobj\n");
    }
    let start = file.len();
    file.extend_from_slice(table.as_bytes());
    let trailer = format!(
        "trailer\n<< /Size {} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n",
        objects.len() + 1
    );
    file.extend_from_slice(trailer.as_bytes());
    file
}

fn text(invoice: &Invoice) -> Vec<String> {
    let money = |amount: i64| describe::price(DecimalAmount::whole(amount), &invoice.currency);
    let mut text = vec![
        format!("Invoice {}", invoice.number.as_deref().unwrap_or("(draft)")),
        format!("Customer {}", invoice.customer),
        format!("Status: {}", invoice.status.name()),
        String::new(),
    ];
    for line in invoice.lines.iter().take(LINES_SHOWN) {
        let what = line.content.description.as_deref().unwrap_or("Item");
        text.push(format!("{what}    {}", money(line.content.amount)));
    }
    if invoice.lines.len() > LINES_SHOWN {
        text.push(format!(
            "and {} more lines",
            invoice.lines.len() - LINES_SHOWN
        ));
    }
    text.push(String::new());
    let tax = invoice.tax(false);
    let off = invoice.subtotal() + tax - invoice.total();
    for (name, amount) in [("Discounts", -off), ("Tax", tax)] {
        if amount != 0 {
            text.push(format!("{name}    {}", money(amount)));
        }
    }
    text.push(format!("Total    {}", money(invoice.total())));
    text.push(format!("Amount due    {}", money(invoice.amount_due)));
    text.push(format!("Amount paid    {}", money(invoice.amount_paid)));
    text
}

fn content(lines: &[String]) -> Vec<u8> {
    let mut page = b"BT /F1 11 Tf 50 790 Td 15 TL\n".to_vec();
    for line in lines {
        page.push(b'(');
        page.extend(line.chars().flat_map(encode));
        page.extend_from_slice(b") Tj T*\n");
    }
    page.extend_from_slice(b"ET");
    page
}

/// Encodes a character as WinAnsi and escapes it. Characters that WinAnsi lacks
/// become question marks.
fn encode(character: char) -> Vec<u8> {
    match character {
        '(' | ')' | '\\' => format!("\\{character}").into_bytes(),
        '€' => vec![0x80],
        ' '..='~' | '\u{a1}'..='\u{ff}' => u8::try_from(u32::from(character)).into_iter().collect(),
        _ => vec![b'?'],
    }
}
