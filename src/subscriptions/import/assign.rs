//! Decides which organization each customer is. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;
use uuid::Uuid;

use super::map::CustomerMap;
use super::report::{Finding, Reason};
use crate::projection::organizations_in;
use crate::tenancy::names::{EXPECTED, FoundNames, is_external_id};

/// A customer in Stripe, as far as it says whose it is.
#[derive(Debug, Clone, Default)]
pub struct Account {
    pub id: String,
    pub name: Option<String>,
    pub email: Option<String>,
    /// What its metadata call its organization, under each of the keys.
    pub named: Vec<String>,
    /// What those of its subscriptions do.
    pub claimed: Vec<Vec<String>>,
}

/// What is known here.
#[derive(Debug, Default)]
pub struct Known {
    /// The organizations of customers.
    pub linked: HashMap<String, Uuid>,
    /// The organizations that have a customer, which was not deleted.
    pub taken: BTreeSet<Uuid>,
    /// Those that are archived.
    pub archived: BTreeSet<Uuid>,
    /// The organizations there are among those that metadata name.
    pub organizations: BTreeSet<Uuid>,
    /// The external ids there are among those that metadata name.
    pub external_ids: HashMap<String, Uuid>,
}

impl Known {
    pub fn add(&mut self, found: FoundNames) {
        let both = found.by_external_id.values().copied();
        let both = both.chain(found.by_id.iter().map(|(id, archived)| (*id, *archived)));
        let archived = both.filter(|(_, archived)| *archived);
        self.archived.extend(archived.map(|(id, _)| id));
        self.organizations.extend(found.by_id.into_keys());
        let external = found.by_external_id.into_iter();
        self.external_ids
            .extend(external.map(|(name, (id, _))| (name, id)));
    }

    /// The organization that an object's metadata name: by our id, as for events, else by
    /// the product's.
    fn organization(&self, named: &[String]) -> Option<Uuid> {
        let mut ids = named.iter().filter_map(|text| text.parse().ok());
        ids.find(|id| self.organizations.contains(id)).or_else(|| {
            named
                .iter()
                .find_map(|name| self.external_ids.get(name).copied())
        })
    }
}

/// What becomes of a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assigned {
    /// It is an organization's already.
    Linked(Uuid),
    /// The file says so.
    ByFile(Uuid),
    ByMetadata(Uuid),
    /// An organization is made of it.
    New {
        external_id: Option<String>,
    },
}

impl Account {
    pub fn read(object: &Value) -> Option<Self> {
        let text = |name: &str| object[name].as_str().map(str::to_owned);
        Some(Self {
            id: text("id")?,
            name: text("name"),
            email: text("email"),
            named: named_in(object),
            claimed: Vec::new(),
        })
    }

    /// What its metadata and those of its subscriptions call its organization.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let all = self.named.iter().chain(self.claimed.iter().flatten());
        all.map(String::as_str)
    }

    /// The ids of organizations among them.
    pub fn organizations(&self) -> impl Iterator<Item = Uuid> {
        self.names().filter_map(|text| text.parse().ok())
    }

    /// The metadata of each of its objects, its own first.
    fn each_named(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.named).chain(&self.claimed)
    }
}

/// What an object's metadata call the organization that it belongs to.
pub fn named_in(object: &Value) -> Vec<String> {
    let metadata = object["metadata"].as_object();
    metadata.map_or_else(Vec::new, |metadata| {
        let named = organizations_in(metadata).filter(|text| !text.is_empty());
        named.map(str::to_owned).collect()
    })
}

/// Decides about all customers of the account together, since of two that are the same
/// organization's none is guessed to be the right one.
pub fn assign(
    accounts: &[Account],
    known: &Known,
    map: &CustomerMap,
    create: bool,
) -> (HashMap<String, Assigned>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut assigned = HashMap::new();
    for account in accounts {
        match decide(account, known, map, create) {
            Ok(decision) => {
                assigned.insert(account.id.clone(), decision);
            }
            Err(finding) => findings.push(finding),
        }
    }
    findings.extend(several(&mut assigned, known));
    (assigned, findings)
}

fn decide(
    account: &Account,
    known: &Known,
    map: &CustomerMap,
    create: bool,
) -> Result<Assigned, Finding> {
    let id = &account.id;
    let linked = known.linked.get(id).copied();
    let by_file = map.organization(id);
    match (linked, by_file) {
        (Some(linked), Some(named)) if linked != named => {
            let detail = format!("the map names organization {named}, and it is {linked}'s here");
            return Err(Finding::of(Reason::LinkedElsewhere, id, detail).organization(linked));
        }
        (Some(linked), _) => return Ok(Assigned::Linked(linked)),
        (None, Some(named)) => return unarchived(id, named, known, Assigned::ByFile),
        (None, None) => {}
    }
    let named = account.each_named();
    let found: BTreeSet<Uuid> = named
        .filter_map(|named| known.organization(named))
        .collect();
    let several = |names: Vec<String>| {
        let detail = format!(
            "its metadata and its subscriptions' name {}",
            names.join(", ")
        );
        Err(Finding::of(Reason::TwoOrganizations, id, detail))
    };
    if let Some(organization) = found.first().copied() {
        if found.len() > 1 {
            return several(found.iter().map(Uuid::to_string).collect());
        }
        return unarchived(id, organization, known, Assigned::ByMetadata);
    }
    let names: BTreeSet<&String> = account.each_named().filter_map(|one| one.first()).collect();
    let name = names.first().copied();
    if !create {
        let detail = match name {
            None => "the map and its metadata name none".to_owned(),
            Some(name) => format!("its metadata name {name:?}, which is the id of no organization"),
        };
        return Err(Finding::of(Reason::NoOrganization, id, detail));
    }
    if names.len() > 1 {
        return several(names.into_iter().cloned().collect());
    }
    match name {
        Some(name) if !is_external_id(name) => {
            let detail = format!("its metadata name {name:?}: {EXPECTED}");
            Err(Finding::of(Reason::ExternalId, id, detail))
        }
        external_id => Ok(Assigned::New {
            external_id: external_id.cloned(),
        }),
    }
}

fn unarchived(
    customer: &str,
    organization: Uuid,
    known: &Known,
    assigned: fn(Uuid) -> Assigned,
) -> Result<Assigned, Finding> {
    if known.archived.contains(&organization) {
        let detail = format!("organization {organization} is archived");
        let finding = Finding::of(Reason::Archived, customer, detail);
        return Err(finding.organization(organization));
    }
    Ok(assigned(organization))
}

/// Takes out the customers of organizations that have several. One that is linked stays,
/// else the one that the file names.
fn several(assigned: &mut HashMap<String, Assigned>, known: &Known) -> Vec<Finding> {
    let mut of_organization = BTreeMap::<String, Vec<(bool, &str)>>::new();
    for (customer, assigned) in &*assigned {
        let (organization, by_file) = match assigned {
            Assigned::Linked(_) | Assigned::New { external_id: None } => continue,
            Assigned::ByFile(id) => (id.to_string(), true),
            Assigned::ByMetadata(id) => (id.to_string(), false),
            Assigned::New {
                external_id: Some(name),
            } => (name.clone(), false),
        };
        let customers = of_organization.entry(organization).or_default();
        customers.push((by_file, customer));
    }
    let mut findings = Vec::new();
    for (organization, mut customers) in of_organization {
        let id: Option<Uuid> = organization.parse().ok();
        let is_taken = id.is_some_and(|id| known.taken.contains(&id));
        let named = customers.iter().filter(|(by_file, _)| *by_file).count();
        customers.sort_unstable();
        let stays = match (is_taken, named, customers.as_slice()) {
            (true, ..) => None,
            (_, 1, _) => customers.iter().find(|(by_file, _)| *by_file),
            (_, 0, [only]) => Some(only),
            _ => None,
        };
        let all: Vec<&str> = customers.iter().map(|(_, customer)| *customer).collect();
        let detail = if is_taken {
            format!("organization {organization} has another customer already")
        } else {
            format!("organization {organization} has {}", all.join(", "))
        };
        let left = customers.iter().filter(|one| stays != Some(*one));
        findings.extend(left.map(|(_, customer)| {
            let finding = Finding::of(Reason::TwoCustomers, *customer, detail.clone());
            id.into_iter().fold(finding, Finding::organization)
        }));
    }
    for finding in &findings {
        assigned.remove(finding.customer.as_str());
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ACME: Uuid = Uuid::from_u128(1);
    const GLOBEX: Uuid = Uuid::from_u128(2);

    fn account(id: &str, metadata: Value) -> Account {
        Account::read(&json!({"id": id, "metadata": metadata})).unwrap()
    }

    fn known(linked: &[(&str, Uuid)]) -> Known {
        Known {
            linked: linked
                .iter()
                .map(|(id, of)| ((*id).to_owned(), *of))
                .collect(),
            taken: linked.iter().map(|(_, of)| *of).collect(),
            archived: BTreeSet::new(),
            organizations: [ACME, GLOBEX].into(),
            external_ids: [("globex".to_owned(), GLOBEX)].into(),
        }
    }

    fn reasons(findings: &[Finding]) -> BTreeMap<&str, Reason> {
        let each = findings.iter();
        each.map(|one| (one.customer.as_str(), one.reason))
            .collect()
    }

    #[test]
    fn metadata_name_the_organization_as_for_events() {
        let accounts = [
            account("cus_a", json!({"organization_id": ACME})),
            account(
                "cus_b",
                json!({"organization_id": "b", "tenant_id": GLOBEX}),
            ),
            account("cus_c", json!({"organization_id": Uuid::from_u128(9)})),
            account("cus_d", json!({})),
        ];
        let (assigned, findings) = assign(&accounts, &known(&[]), &CustomerMap::default(), false);
        assert_eq!(assigned["cus_a"], Assigned::ByMetadata(ACME));
        assert_eq!(assigned["cus_b"], Assigned::ByMetadata(GLOBEX));
        let none = Reason::NoOrganization;
        assert_eq!(
            reasons(&findings),
            [("cus_c", none), ("cus_d", none)].into()
        );
    }

    #[test]
    fn subscriptions_name_the_organization_as_well() {
        let claimed = |id: &str, own: Value, claims: &[&str]| Account {
            claimed: claims.iter().map(|name| vec![(*name).to_owned()]).collect(),
            ..account(id, own)
        };
        let acme = ACME.to_string();
        let accounts = [
            claimed("cus_a", json!({}), &[&acme]),
            claimed("cus_b", json!({"organization_id": ACME}), &["globex"]),
            claimed("cus_c", json!({}), &["one", "two"]),
        ];
        let (assigned, findings) = assign(&accounts, &known(&[]), &CustomerMap::default(), true);
        assert_eq!(
            assigned,
            [("cus_a".to_owned(), Assigned::ByMetadata(ACME))].into()
        );
        let two = Reason::TwoOrganizations;
        assert_eq!(reasons(&findings), [("cus_b", two), ("cus_c", two)].into());
    }

    #[test]
    fn archived_organizations_are_given_nothing_and_deleted_customers_make_room() {
        let accounts = [
            account("cus_a", json!({"organization_id": ACME})),
            account("cus_b", json!({"organization_id": "globex"})),
        ];
        let known = Known {
            archived: [ACME].into(),
            taken: BTreeSet::new(),
            ..known(&[("cus_old", GLOBEX)])
        };
        let (assigned, findings) = assign(&accounts, &known, &CustomerMap::default(), false);
        assert_eq!(reasons(&findings), [("cus_a", Reason::Archived)].into());
        assert_eq!(assigned["cus_b"], Assigned::ByMetadata(GLOBEX));
    }

    #[test]
    fn of_two_customers_none_is_guessed() {
        let accounts = [
            account("cus_a", json!({"organization_id": ACME})),
            account("cus_b", json!({"organization_id": ACME})),
            account("cus_c", json!({"organization_id": GLOBEX})),
        ];
        let map = CustomerMap::default();
        let (assigned, findings) = assign(&accounts, &known(&[]), &map, false);
        let two = Reason::TwoCustomers;
        assert_eq!(reasons(&findings), [("cus_a", two), ("cus_b", two)].into());
        assert_eq!(assigned.len(), 1);
        // One that is linked stays, whoever else names its organization.
        let linked = known(&[("cus_a", ACME), ("cus_x", GLOBEX)]);
        let (assigned, findings) = assign(&accounts, &linked, &map, false);
        assert_eq!(
            assigned,
            [("cus_a".to_owned(), Assigned::Linked(ACME))].into()
        );
        assert_eq!(reasons(&findings), [("cus_b", two), ("cus_c", two)].into());
    }

    #[test]
    fn organizations_are_made_by_what_metadata_call_them() {
        let accounts = [
            account("cus_a", json!({"organization_id": "acme"})),
            account("cus_b", json!({"tenant_id": "globex"})),
            account("cus_c", json!({"tenant_id": " "})),
            account("cus_d", json!({})),
            account("cus_e", json!({"organization_id": "twice"})),
            account("cus_f", json!({"organization_id": "twice"})),
        ];
        let (assigned, findings) = assign(&accounts, &known(&[]), &CustomerMap::default(), true);
        let new = |name: Option<&str>| Assigned::New {
            external_id: name.map(str::to_owned),
        };
        assert_eq!(assigned["cus_a"], new(Some("acme")));
        assert_eq!(assigned["cus_d"], new(None));
        assert_eq!(assigned["cus_b"], Assigned::ByMetadata(GLOBEX));
        let (unfit, two) = (Reason::ExternalId, Reason::TwoCustomers);
        let expected = [("cus_c", unfit), ("cus_e", two), ("cus_f", two)];
        assert_eq!(reasons(&findings), expected.into());
    }
}
