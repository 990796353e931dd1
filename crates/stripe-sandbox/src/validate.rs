//! Stripe's checks of single values: currencies, countries, card expiry.

use crate::error::ApiError;

/// The currencies that Stripe supports.
const CURRENCIES: &str = "usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd \
    bnd bob brl bsd bwp byn bzd cad cdf chf clp cny cop crc cve czk djf dkk dop dzd egp etb eur \
    fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl hrk htg huf idr ils inr isk jmd jod jpy kes kgs \
    khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn myr \
    mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr \
    sek sgd shp sle sos srd std szl thb tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst \
    xaf xcd xcg xof xpf yer zar zmw";

/// ISO 3166-1 alpha-2 codes.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI \
    BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY \
    CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN \
    GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH \
    KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO \
    MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL \
    PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV \
    SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN \
    VU WF WS YE YT ZA ZM ZW";

fn contains_word(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|known| known == word)
}

/// The largest amount that Stripe accepts.
pub const LARGEST_AMOUNT: i64 = 999_999_999_999;

/// Refuses an amount out of range.
pub fn amount(param: &str, value: i64) -> Result<i64, ApiError> {
    if (-LARGEST_AMOUNT..=LARGEST_AMOUNT).contains(&value) {
        return Ok(value);
    }
    Err(ApiError::bad_param(
        param,
        format!("Amount must be no more than {LARGEST_AMOUNT}."),
    )
    .code("amount_too_large"))
}

/// Returns the currency in lower case, or refuses it.
pub fn currency(param: &str, text: &str) -> Result<String, ApiError> {
    let lower = text.to_lowercase();
    if contains_word(CURRENCIES, &lower) {
        return Ok(lower);
    }
    let known: Vec<&str> = CURRENCIES.split_whitespace().collect();
    Err(ApiError::bad_param(
        param,
        format!(
            "Invalid currency: {text}. Stripe currently supports these currencies: {}",
            known.join(", ")
        ),
    ))
}

/// Refuses an unknown country.
pub fn country(param: &str, text: &str) -> Result<(), ApiError> {
    if contains_word(COUNTRIES, &text.to_uppercase()) {
        return Ok(());
    }
    Err(ApiError::bad_param(
        param,
        format!(
            "Country '{text}' is unknown. Try using a 2-character alphanumeric country code instead, such as 'US', 'EG', or 'GB'."
        ),
    ))
}

/// Refuses an expiry date that is invalid or has passed.
pub fn expiry(month: i64, year: i64, now_secs: i64) -> Result<(), ApiError> {
    if !(1..=12).contains(&month) {
        return Err(ApiError::card(
            "invalid_expiry_month",
            None,
            "Your card's expiration month is invalid.",
        )
        .param("card[exp_month]"));
    }
    let today = jiff::Timestamp::from_second(now_secs)
        .map(|now| now.to_zoned(jiff::tz::TimeZone::UTC))
        .map(|now| (i64::from(now.year()), i64::from(now.month())))
        .unwrap_or_default();
    let over = (year, month) < today;
    let far = year > today.0 + 50;
    if over || far {
        return Err(ApiError::card(
            "invalid_expiry_year",
            None,
            "Your card's expiration year is invalid.",
        )
        .param("card[exp_year]"));
    }
    Ok(())
}
