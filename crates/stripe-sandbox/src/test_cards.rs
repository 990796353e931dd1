//! Stripe's well-known test cards, and what each does when charged.

use crate::error::ApiError;

/// What an issuer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The charge succeeds.
    Approve,
    /// The charge is declined.
    Decline(Decline),
    /// The cardholder must authenticate first.
    Authenticate,
}

/// A refusal: Stripe's error code, the issuer's reason, a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decline {
    /// Such as `card_declined`.
    pub code: &'static str,
    /// Such as `insufficient_funds`.
    pub decline_code: Option<&'static str>,
    /// For people.
    pub message: &'static str,
}

impl Decline {
    /// The error that a request gets.
    #[must_use]
    pub fn error(&self) -> ApiError {
        ApiError::card(self.code, self.decline_code, self.message)
    }
}

/// A test card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestCard {
    /// The part of `pm_card_…` and `tok_…` after the prefix.
    pub name: &'static str,
    /// The number.
    pub number: &'static str,
    /// The network.
    pub brand: &'static str,
    /// Whether the card can be attached to a customer.
    pub attach: Verdict,
    /// What becomes of a charge.
    pub charge: Verdict,
}

impl TestCard {
    /// The last four digits.
    #[must_use]
    pub fn last4(&self) -> &'static str {
        &self.number[self.number.len() - 4..]
    }
}

const fn good(name: &'static str, number: &'static str, brand: &'static str) -> TestCard {
    TestCard {
        name,
        number,
        brand,
        attach: Verdict::Approve,
        charge: Verdict::Approve,
    }
}

const fn refused(name: &'static str, number: &'static str, decline: Decline) -> TestCard {
    TestCard {
        name,
        number,
        brand: "visa",
        attach: Verdict::Decline(decline),
        charge: Verdict::Decline(decline),
    }
}

const fn declined(decline_code: &'static str, message: &'static str) -> Decline {
    Decline {
        code: "card_declined",
        decline_code: Some(decline_code),
        message,
    }
}

const GENERIC: Decline = declined("generic_decline", "Your card was declined.");
const NO_FUNDS: Decline = declined("insufficient_funds", "Your card has insufficient funds.");

/// The cards. Those whose charge is declined cannot be attached either, but
/// for `chargeCustomerFail`, which is made for failing renewals.
pub const CARDS: &[TestCard] = &[
    good("visa", "4242424242424242", "visa"),
    good("visa_debit", "4000056655665556", "visa"),
    good("mastercard", "5555555555554444", "mastercard"),
    good("mastercard_debit", "5200828282828210", "mastercard"),
    good("amex", "371449635398431", "amex"),
    good("discover", "6011000990139424", "discover"),
    good("discover_debit", "6011981111111113", "discover"),
    good("mastercard_prepaid", "5105105105105100", "mastercard"),
    good("createDispute", "4000000000000259", "visa"),
    good("diners", "3056930009020004", "diners"),
    good("jcb", "3566002020360505", "jcb"),
    good("unionpay", "6200000000000005", "unionpay"),
    refused("chargeDeclined", "4000000000000002", GENERIC),
    refused("visa_chargeDeclined", "4000000000000002", GENERIC),
    refused(
        "chargeDeclinedInsufficientFunds",
        "4000000000009995",
        NO_FUNDS,
    ),
    refused(
        "visa_chargeDeclinedInsufficientFunds",
        "4000000000009995",
        NO_FUNDS,
    ),
    refused(
        "visa_chargeDeclinedLostCard",
        "4000000000009987",
        declined("lost_card", "Your card was declined."),
    ),
    refused(
        "visa_chargeDeclinedStolenCard",
        "4000000000009979",
        declined("stolen_card", "Your card was declined."),
    ),
    refused(
        "visa_chargeDeclinedVelocityLimitExceeded",
        "4000000000006975",
        declined("card_velocity_exceeded", "Your card was declined."),
    ),
    refused(
        "chargeDeclinedFraudulent",
        "4100000000000019",
        declined("fraudulent", "Your card was declined."),
    ),
    refused(
        "chargeDeclinedExpiredCard",
        "4000000000000069",
        Decline {
            code: "expired_card",
            decline_code: None,
            message: "Your card has expired.",
        },
    ),
    refused(
        "chargeDeclinedIncorrectCvc",
        "4000000000000127",
        Decline {
            code: "incorrect_cvc",
            decline_code: None,
            message: "Your card's security code is incorrect.",
        },
    ),
    refused(
        "chargeDeclinedProcessingError",
        "4000000000000119",
        Decline {
            code: "processing_error",
            decline_code: None,
            message: "An error occurred while processing your card. Try again in a little bit.",
        },
    ),
    TestCard {
        name: "chargeCustomerFail",
        number: "4000000000000341",
        brand: "visa",
        attach: Verdict::Approve,
        charge: Verdict::Decline(GENERIC),
    },
    TestCard {
        name: "authenticationRequired",
        number: "4000002760003184",
        brand: "visa",
        attach: Verdict::Approve,
        charge: Verdict::Authenticate,
    },
];

/// Stripe's other test cards: of countries, of checks that fail, of fraud, of
/// disputes and refunds of their own kind.
const ELSEWHERE: &str = "ae ar at au authenticationRequiredChargeDeclinedInsufficientFunds \
    authenticationRequiredOnSetup authenticationRequiredSetupForOffSession avsFail avsLine1Fail \
    avsUnchecked avsZipFail be bg bo br by bypassPending bypassPendingInternational ca cartes_bancaires \
    cartesBancaires ch chargeDeclinedVelocityLimitExceeded chargeDeclinedLostCard \
    chargeDeclinedStolenCard chargeDeclinedInvalidNumber chargeDeclinedFraudulentBlocked cl cn co cr \
    createDisputeInquiry createDisputeMultiple createDisputeProductNotReceived \
    createComplianceDispute createIssuerFraudRecord cvcCheckFail cy cz de dk ec ee elo es fi fr gb gi \
    gr hk hr hu ie in it jp lt lu lv mt mx my networks no nz pa pe pinOfflineDeclined pl pr pt py \
    radarBlock refundFail riskLevelElevated riskLevelHighest ro sa se sg si sk th \
    threeDSecure2Required threeDSecureOptional threeDSecureRequired \
    threeDSecureRequiredChargeDeclined threeDSecureRequiredProcessingError tr tw \
    unionpay_debit unionpay_19 us uy visa_chargeDeclinedExpiredCard visa_chargeDeclinedFraudulent \
    visa_chargeDeclinedIncorrectCvc visa_chargeDeclinedProcessingError visa_cartesBancaires \
    visa_unregulated_debit mastercard_2_series mastercard_series_2 diners_14digits \
    visa_triggerNextRequiresAction visa_prepaid";

/// Whether Stripe has this test card and the stand-in has not.
#[must_use]
pub fn only_at_stripe(id: &str) -> bool {
    let name = id
        .strip_prefix("pm_card_")
        .or_else(|| id.strip_prefix("tok_"));
    name.is_some_and(|name| ELSEWHERE.split_whitespace().any(|known| known == name))
}

/// The card behind `pm_card_…`.
#[must_use]
pub fn by_payment_method(id: &str) -> Option<&'static TestCard> {
    let name = id.strip_prefix("pm_card_")?;
    CARDS.iter().find(|card| card.name == name)
}

/// The card behind `tok_…`.
#[must_use]
pub fn by_token(token: &str) -> Option<&'static TestCard> {
    let name = token.strip_prefix("tok_")?;
    CARDS.iter().find(|card| card.name == name)
}

/// The card of this number.
#[must_use]
pub fn by_number(number: &str) -> Option<&'static TestCard> {
    let digits: String = number.chars().filter(|digit| *digit != ' ').collect();
    CARDS.iter().find(|card| card.number == digits)
}

/// The decline that a fault asks for by its decline code.
#[must_use]
pub fn decline_named(decline_code: &str) -> Option<Decline> {
    CARDS.iter().find_map(|card| match card.charge {
        Verdict::Decline(decline)
            if decline.decline_code == Some(decline_code) || decline.code == decline_code =>
        {
            Some(decline)
        }
        _ => None,
    })
}
