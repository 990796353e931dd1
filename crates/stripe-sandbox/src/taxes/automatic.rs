//! Automatic tax, by a small table of fixed percentages. Stripe computes tax by
//! address, product and registration; the table has one percentage for a
//! country or state, and nothing is collected elsewhere.

use serde_json::Value;

use crate::customers::Customer;
use crate::error::ApiError;
use crate::ids::IdSource;
use crate::metadata::Metadata;
use crate::percent::Percent;
use crate::state::State;
use crate::store::Store;
use crate::taxes::rates::TaxRate;

/// Country, state, percentage in ten-thousandths, and kind of tax.
const TABLE: [(&str, Option<&str>, u32, &str); 20] = [
    ("AT", None, 200_000, "vat"),
    ("AU", None, 100_000, "gst"),
    ("BE", None, 210_000, "vat"),
    ("CA", Some("AB"), 50_000, "gst"),
    ("CA", Some("ON"), 130_000, "hst"),
    ("CH", None, 81_000, "vat"),
    ("DE", None, 190_000, "vat"),
    ("ES", None, 210_000, "vat"),
    ("FR", None, 200_000, "vat"),
    ("GB", None, 200_000, "vat"),
    ("IE", None, 230_000, "vat"),
    ("IT", None, 220_000, "vat"),
    ("NL", None, 210_000, "vat"),
    ("NZ", None, 150_000, "gst"),
    ("PL", None, 230_000, "vat"),
    ("SE", None, 250_000, "vat"),
    ("US", Some("CA"), 72_500, "sales_tax"),
    ("US", Some("NY"), 40_000, "sales_tax"),
    ("US", Some("TX"), 62_500, "sales_tax"),
    ("US", Some("WA"), 65_000, "sales_tax"),
];
/// Countries whose states decide.
const BY_STATE: [&str; 2] = ["CA", "US"];

/// Where a customer is taxed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    country: String,
    state: Option<String>,
}

impl Location {
    /// The location of an address; `None` if Stripe would not recognize it.
    #[must_use]
    pub fn of(address: Option<&Value>) -> Option<Self> {
        let field = |name: &str| {
            let text = address?[name].as_str()?.trim().to_uppercase();
            (!text.is_empty()).then_some(text)
        };
        let country = field("country")?;
        let state = field("state");
        let by_state = BY_STATE.contains(&country.as_str());
        if by_state && (state.is_none() || field("postal_code").is_none()) {
            return None;
        }
        Some(Self {
            country,
            state: state.filter(|_| by_state),
        })
    }
}

/// The rates of the table, excluding and including tax.
#[must_use]
pub fn rates() -> Store<TaxRate> {
    let mut ids = IdSource::new(0x7A78);
    let mut rates = Store::default();
    for (country, state, percentage, kind) in TABLE {
        for inclusive in [false, true] {
            rates.insert(TaxRate {
                id: ids.next("txr"),
                created_secs: 0,
                active: false,
                display_name: kind.replace('_', " ").to_uppercase(),
                percentage: Percent::from_ten_thousandths(percentage),
                inclusive,
                country: Some(country.to_owned()),
                state: state.map(str::to_owned),
                jurisdiction: Some(state.unwrap_or(country).to_owned()),
                description: None,
                tax_type: Some(kind),
                metadata: Metadata::new(),
                automatic: true,
            });
        }
    }
    rates
}

/// The rate for a location; `None` where nothing is collected.
#[must_use]
pub fn rate<'a>(state: &'a State, location: &Location, inclusive: bool) -> Option<&'a TaxRate> {
    state.tax_rates.iter().find(|rate| {
        rate.automatic
            && rate.inclusive == inclusive
            && rate.country.as_ref() == Some(&location.country)
            && rate.state == location.state
    })
}

/// The location of a customer.
#[must_use]
pub fn location(customer: &Customer) -> Option<Location> {
    Location::of(customer.address.as_ref())
}

/// Refuses automatic tax for a customer without a recognized location.
pub fn check_location(customer: &Customer) -> Result<(), ApiError> {
    match location(customer) {
        Some(_) => Ok(()),
        None => Err(ApiError::invalid(
            "The customer's location isn't recognized. Set a valid customer address in order to automatically calculate tax.",
        )
        .code("customer_tax_location_invalid")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_location_needs_what_its_country_taxes_by() {
        let known = |address: Value| Location::of(Some(&address)).is_some();
        assert!(known(json!({ "country": "DE" })));
        assert!(known(
            json!({ "country": "US", "state": "NY", "postal_code": "10001" })
        ));
        assert!(!known(json!({ "country": "US", "state": "NY" })));
        assert!(!known(json!({ "country": "US", "postal_code": "10001" })));
        assert!(!known(json!({ "country": "", "city": "Berlin" })));
        assert_eq!(Location::of(None), None);
    }
}
