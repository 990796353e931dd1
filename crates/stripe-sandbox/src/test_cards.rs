//! Stripe's well-known test cards and their behavior.

use crate::error::ApiError;

/// The issuer's decision about a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssuerDecision {
    Approve,
    Decline(Decline),
    /// The cardholder must authenticate first.
    Authenticate,
}

/// The reason for a declined charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decline {
    /// Stripe's error code, such as `card_declined`.
    pub code: &'static str,
    /// The issuer's reason, such as `insufficient_funds`.
    pub decline_code: Option<&'static str>,
    /// A message for people.
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
    /// The name after `pm_card_` or `tok_`.
    pub name: &'static str,
    pub number: &'static str,
    pub brand: &'static str,
    /// Whether the card can be attached to a customer.
    pub attach: IssuerDecision,
    /// The outcome of a charge.
    pub charge: IssuerDecision,
}

impl TestCard {
    #[must_use]
    pub fn last4(&self) -> &'static str {
        &self.number[self.number.len() - 4..]
    }

    /// Whether it stands for a bank account, which takes days to pay.
    #[must_use]
    pub fn is_bank(&self) -> bool {
        self.brand == BANK
    }
}

const fn approved_card(name: &'static str, number: &'static str, brand: &'static str) -> TestCard {
    TestCard {
        name,
        number,
        brand,
        attach: IssuerDecision::Approve,
        charge: IssuerDecision::Approve,
    }
}

const fn declined_card(name: &'static str, number: &'static str, decline: Decline) -> TestCard {
    TestCard {
        name,
        number,
        brand: "visa",
        attach: IssuerDecision::Decline(decline),
        charge: IssuerDecision::Decline(decline),
    }
}

const fn card_declined(decline_code: &'static str, message: &'static str) -> Decline {
    Decline {
        code: "card_declined",
        decline_code: Some(decline_code),
        message,
    }
}

const GENERIC: Decline = card_declined("generic_decline", "Your card was declined.");
const NO_FUNDS: Decline = card_declined("insufficient_funds", "Your card has insufficient funds.");

const BANK: &str = "us_bank_account";
/// What a bank says that cannot pay.
pub const BANK_REFUSAL: Decline = Decline {
    code: "payment_intent_payment_attempt_failed",
    decline_code: Some("insufficient_funds"),
    message: "The customer's bank account could not be debited.",
};

/// The bank account of a hosted page, by its number. Whoever plays the bank says
/// whether it pays.
pub const ACCOUNTS: &[TestCard] = &[
    approved_card("usBankAccount", "000123456789", BANK),
    approved_card("usBankAccount_insufficientFunds", "000222222227", BANK),
];

#[must_use]
pub fn by_account(number: &str) -> Option<&'static TestCard> {
    ACCOUNTS.iter().find(|account| account.number == number)
}

/// The supported test cards. Cards whose charges are declined cannot be
/// attached either, except `chargeCustomerFail`, which exists for failing
/// renewals.
pub const CARDS: &[TestCard] = &[
    approved_card("visa", "4242424242424242", "visa"),
    approved_card("visa_debit", "4000056655665556", "visa"),
    approved_card("mastercard", "5555555555554444", "mastercard"),
    approved_card("mastercard_debit", "5200828282828210", "mastercard"),
    approved_card("amex", "371449635398431", "amex"),
    approved_card("discover", "6011000990139424", "discover"),
    approved_card("discover_debit", "6011981111111113", "discover"),
    approved_card("mastercard_prepaid", "5105105105105100", "mastercard"),
    approved_card("createDispute", "4000000000000259", "visa"),
    approved_card("diners", "3056930009020004", "diners"),
    approved_card("jcb", "3566002020360505", "jcb"),
    approved_card("unionpay", "6200000000000005", "unionpay"),
    declined_card("chargeDeclined", "4000000000000002", GENERIC),
    declined_card("visa_chargeDeclined", "4000000000000002", GENERIC),
    declined_card(
        "chargeDeclinedInsufficientFunds",
        "4000000000009995",
        NO_FUNDS,
    ),
    declined_card(
        "visa_chargeDeclinedInsufficientFunds",
        "4000000000009995",
        NO_FUNDS,
    ),
    declined_card(
        "visa_chargeDeclinedLostCard",
        "4000000000009987",
        card_declined("lost_card", "Your card was declined."),
    ),
    declined_card(
        "visa_chargeDeclinedStolenCard",
        "4000000000009979",
        card_declined("stolen_card", "Your card was declined."),
    ),
    declined_card(
        "visa_chargeDeclinedVelocityLimitExceeded",
        "4000000000006975",
        card_declined("card_velocity_exceeded", "Your card was declined."),
    ),
    declined_card(
        "chargeDeclinedFraudulent",
        "4100000000000019",
        card_declined("fraudulent", "Your card was declined."),
    ),
    declined_card(
        "chargeDeclinedExpiredCard",
        "4000000000000069",
        Decline {
            code: "expired_card",
            decline_code: None,
            message: "Your card has expired.",
        },
    ),
    declined_card(
        "chargeDeclinedIncorrectCvc",
        "4000000000000127",
        Decline {
            code: "incorrect_cvc",
            decline_code: None,
            message: "Your card's security code is incorrect.",
        },
    ),
    declined_card(
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
        attach: IssuerDecision::Approve,
        charge: IssuerDecision::Decline(GENERIC),
    },
    TestCard {
        name: "authenticationRequired",
        number: "4000002760003184",
        brand: "visa",
        attach: IssuerDecision::Approve,
        charge: IssuerDecision::Authenticate,
    },
];

/// Stripe's other test cards: cards of specific countries, failing checks,
/// fraud, and special disputes and refunds.
const UNSUPPORTED_CARDS: &str = "ae ar at au authenticationRequiredChargeDeclinedInsufficientFunds \
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

/// Whether Stripe has this test card but the sandbox does not.
#[must_use]
pub fn is_unsupported(id: &str) -> bool {
    let name = id
        .strip_prefix("pm_card_")
        .or_else(|| id.strip_prefix("tok_"));
    name.is_some_and(|name| {
        UNSUPPORTED_CARDS
            .split_whitespace()
            .any(|known| known == name)
    })
}

/// The card of `pm_card_…`.
#[must_use]
pub fn by_payment_method(id: &str) -> Option<&'static TestCard> {
    let name = id.strip_prefix("pm_card_")?;
    CARDS.iter().find(|card| card.name == name)
}

/// The card of `tok_…`.
#[must_use]
pub fn by_token(token: &str) -> Option<&'static TestCard> {
    let name = token.strip_prefix("tok_")?;
    CARDS.iter().find(|card| card.name == name)
}

#[must_use]
pub fn by_number(number: &str) -> Option<&'static TestCard> {
    let digits: String = number.chars().filter(|digit| *digit != ' ').collect();
    CARDS.iter().find(|card| card.number == digits)
}

/// The decline with this decline code, for fault injection.
#[must_use]
pub fn decline_named(decline_code: &str) -> Option<Decline> {
    CARDS.iter().find_map(|card| match card.charge {
        IssuerDecision::Decline(decline)
            if decline.decline_code == Some(decline_code) || decline.code == decline_code =>
        {
            Some(decline)
        }
        _ => None,
    })
}
