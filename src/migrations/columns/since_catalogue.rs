//! Which columns the migrations add since the catalogue has a memory.

pub const COLUMNS: &[(&str, &[(&str, &str)])] = &[
    (
        "20260114010000_catalogue_memory",
        &[
            (
                "plan_versions",
                "plan_tier version digest billed_digest definition created_at",
            ),
            (
                "billing_prices",
                "stripe_price_id plan_tier metric version currency recurring_interval \
                 recurring_interval_count unit_amount included overage_rate lookup_key \
                 stripe_product_id first_seen_at",
            ),
            ("plan_version_prices", "plan_tier version stripe_price_id"),
            ("billing_subscriptions", "plan_version"),
            ("billing_subscription_items", "plan_tier metric"),
            ("organizations", "plan_version"),
            (
                "usage_quotas",
                "plan_version currency plan_interval grace_max",
            ),
        ],
    ),
    (
        "20260114020000_features",
        &[
            (
                "organization_features",
                "organization_id feature value plan_tier updated_at",
            ),
            (
                "feature_overrides",
                "organization_id feature value reason expires_at set_by created_at",
            ),
        ],
    ),
    (
        "20260116010000_prices_and_seats",
        &[
            ("billing_prices", "seats"),
            ("billing_subscription_items", "seats"),
            ("billing_subscriptions", "plan_interval plan_seats"),
            ("organizations", "plan_currency plan_interval plan_seats"),
            ("usage_quotas", "seats_held"),
        ],
    ),
    (
        "20260116020000_pending_changes",
        &[
            (
                "billing_subscription_schedules",
                "organization_id stripe_schedule_id stripe_customer_id stripe_subscription_id \
                 status end_behavior current_phase_start current_phase_end phases released_at \
                 canceled_at completed_at metadata livemode stripe_created_at last_event_at \
                 last_event_rank last_event_id tied_event_ids updated_at",
            ),
            (
                "billing_subscriptions",
                "stripe_schedule_id cancellation_comment cancellation_feedback \
                 cancellation_reason",
            ),
        ],
    ),
    (
        "20260116030000_discounts",
        &[
            (
                "billing_discounts",
                "organization_id stripe_discount_id stripe_customer_id stripe_subscription_id \
                 stripe_subscription_item_id stripe_coupon_id stripe_promotion_code_id \
                 promotion_code coupon_name percent_off amount_off currency duration \
                 duration_in_months starts_at ends_at deleted_at observed_at terms_at \
                 terms_due_at updated_at",
            ),
            ("billing_subscriptions", "discount_ids"),
            ("billing_subscription_items", "discount_ids"),
            ("billing_customers", "discount_ids tax_located tax_country"),
            ("billing_invoices", "discount_amount included_tax_amount"),
            (
                "billing_invoice_items",
                "discount_amount tax_amount included_tax_amount",
            ),
        ],
    ),
    (
        "20260116040000_usage_at_changes",
        &[
            ("usage_totals", "quota_adjustment metered_since"),
            (
                "usage_charges",
                "organization_id id metric period_start stripe_customer_id \
                 stripe_subscription_id stripe_price_id units overage_rate amount currency \
                 changed_at charged_by stripe_invoice_item_id attempted_at error_message \
                 refused_at charged_at created_at",
            ),
        ],
    ),
    (
        "20260118020000_kept_terms",
        &[(
            "usage_totals",
            "terms_kept_at kept_quota kept_over_limit kept_overage_rate",
        )],
    ),
    (
        "20260119010000_audit_personal_data",
        &[(
            "billing_audit_personal_data",
            "organization_id entry_id salt ip_address user_agent reason",
        )],
    ),
    (
        "20260119020000_organizations_by_api",
        &[
            (
                "organizations",
                "metadata archived_at folded_name folded_email",
            ),
            (
                "service_api_keys",
                "id name prefix key_hash scopes created_at expires_at revoked_at last_used_at",
            ),
        ],
    ),
    (
        "20260119030000_request_calls",
        &[("billing_stripe_requests", "called_at")],
    ),
    (
        "20260119040000_allowance_periods",
        &[(
            "billing_subscriptions",
            "usage_period_start usage_period_end",
        )],
    ),
    (
        "20260119050000_catalogue_metrics",
        &[("catalogue_metrics", "metric aggregation updated_at")],
    ),
    (
        "20260119060000_unentered_changes",
        &[("organizations", "unentered_changes")],
    ),
    (
        "20260120010000_counted_usage",
        &[
            ("usage_reports", "uncounted_at rejected_code retold_at"),
            (
                "stripe_meter_errors",
                "stripe_event_id event_type occurred_at next_attempt_at attempts error_message \
                 explained_at error_count summary errors settled_at",
            ),
        ],
    ),
    (
        "20260120020000_refunds",
        &[
            (
                "billing_refunds",
                "organization_id stripe_refund_id stripe_charge_id stripe_payment_intent_id \
                 status reason failure_reason currency amount metadata stripe_created_at \
                 last_event_at last_event_rank last_event_id tied_event_ids updated_at",
            ),
            ("billing_charges", "amount_refunded_told refunds_told_by"),
        ],
    ),
    (
        "20260120060000_billed_subscriptions",
        &[("usage_totals", "billed_subscription_id")],
    ),
    (
        "20260121010000_addons",
        &[
            ("catalogue_addons", "id definition updated_at"),
            ("billing_prices", "addon"),
            ("billing_subscription_items", "addon"),
            ("billing_subscriptions", "plan_addons"),
            ("organizations", "plan_addons"),
            ("usage_quotas", "added_quota added_unlimited"),
            ("usage_totals", "kept_added_quota kept_added_unlimited"),
        ],
    ),
    (
        "20260122020000_checkout_sessions",
        &[(
            "checkout_sessions",
            "organization_id id state wish params context stripe_checkout_session_id \
             stripe_subscription_id url expires_at error_message created_at called_at finished_at \
             recovery_attempts next_recovery_at",
        )],
    ),
    (
        "20260122030000_checkout_decisions",
        &[("checkout_sessions", "taking_back next_look_at")],
    ),
    (
        "20260122060000_read_only_operators",
        &[("users", "operator_reads")],
    ),
    (
        "20260122070000_stripe_imports",
        &[(
            "stripe_imports",
            "id terms phase cursor counts began_at updated_at ended_at",
        )],
    ),
    (
        "20260123010000_outbox",
        &[
            (
                "outbound_endpoints",
                "id organization_id source url description types secret previous_secret \
                 previous_secret_until failing_since last_failed_at last_error disabled_at \
                 disabled_reason lease_expires_at created_at",
            ),
            (
                "outbound_changes",
                "organization_id id first_entry last_entry recorded_at",
            ),
            ("outbound_streams", "organization_id last_sequence"),
            (
                "outbound_events",
                "organization_id sequence id event_type body created_at",
            ),
            (
                "outbound_deliveries",
                "organization_id endpoint_id sequence id status attempts next_attempt_at \
                 last_attempt_at response_status response_excerpt error_message ended_at created_at",
            ),
            (
                "outbound_lanes",
                "organization_id endpoint_id due_at lease_id",
            ),
        ],
    ),
    (
        "20260123020000_holds",
        &[
            (
                "usage_reservations",
                "name held settled_at outcome used counted refusal",
            ),
            ("usage_events", "taken_back taken_back_at"),
        ],
    ),
    (
        "20260125010000_past_due_access",
        &[
            ("billing_invoices", "first_failed_at"),
            (
                "billing_subscriptions",
                "past_due_since access_ends_at access_ended_at",
            ),
        ],
    ),
    (
        "20260125020000_trial_cards",
        &[("trial_cards", "digest organization_id claimed_at")],
    ),
    (
        "20260126000000_portal_sessions",
        &[(
            "portal_sessions",
            "organization_id id role service_key_id return_url code_hash code_expires_at \
             token_hash opened_at expires_at ended_at created_at",
        )],
    ),
    (
        "20260127010000_operator_keys",
        &[(
            "operator_api_keys",
            "id name prefix key_hash reads_only created_by created_at expires_at revoked_at \
             last_used_at",
        )],
    ),
    (
        "20260127020000_sessions",
        &[("user_sessions", "ip_address user_agent signed_in_by")],
    ),
    (
        "20260127030000_second_factors",
        &[
            (
                "operator_second_factors",
                "user_id secret last_step created_at",
            ),
            ("operator_recovery_codes", "user_id code_hash used_at"),
        ],
    ),
    (
        "20260127040000_identity_provider",
        &[("users", "oidc_issuer oidc_subject")],
    ),
    (
        "20260128010000_bulk_actions",
        &[(
            "webhook_bulk_actions",
            "id action filter counted through requested_by created_at started_at position_at \
             position_id succeeded failed skipped failures lease_id lease_expires_at worked_at \
             ended_at stopped",
        )],
    ),
    (
        "20260128030000_quota_override_terms",
        &[("usage_quota_overrides", "reason expires_at set_by")],
    ),
    (
        "20260129010000_business_figures",
        &[
            (
                "billing_revenue_balances",
                "organization_id currency amount discounted_amount sequence occurred_at",
            ),
            (
                "billing_revenue_movements",
                "organization_id currency sequence kind before_amount after_amount occurred_at \
                 booked_at stripe_subscription_id stripe_event_id",
            ),
            (
                "billing_revenue_months",
                "month currency kind movements amount",
            ),
            ("billing_revenue_journal", "name ran_at compared_at"),
        ],
    ),
    (
        "20260130010000_mails",
        &[
            (
                "mails",
                "organization_id id kind fact resource_id about_at happened_at status attempts \
                 next_attempt_at lease_id recipient error_message queued_at ended_at",
            ),
            ("mail_switch", "name switched_on_at searched_at"),
        ],
    ),
    (
        "20260130020000_revenue_terms",
        &[
            ("billing_subscriptions", "collection_paused"),
            (
                "billing_subscription_items",
                "quantity_divide_by quantity_round tax_behavior included_tax_percent",
            ),
        ],
    ),
    (
        "20260130020100_bulk_action_tries",
        &[("webhook_bulk_actions", "requested_by_key tries last_error")],
    ),
    (
        "20260130020300_usage_denials",
        &[(
            "usage_denials",
            "organization_id id request_id denied_at reason metric feature usage quota \
             grace_expires_at",
        )],
    ),
    (
        "20260130030000_session_issuers",
        &[("user_sessions", "issuer")],
    ),
];
