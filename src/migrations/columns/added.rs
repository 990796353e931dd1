//! Which columns each migration adds, until the catalogue has a memory.

pub const COLUMNS: &[(&str, &[(&str, &str)])] = &[
    (
        "20260101090000_billing_roles",
        &[(
            "billing_schema_migrations",
            "version name checksum applied_at",
        )],
    ),
    (
        "20260101090100_organizations",
        &[
            (
                "organizations",
                "id name plan_tier base_plan_tier created_at updated_at",
            ),
            ("users", "id email created_at disabled_at"),
            (
                "usage_quotas",
                "organization_id metric plan_tier unlimited quota over_limit overage_rate \
                 updated_at",
            ),
        ],
    ),
    (
        "20260101090200_billing_mirror",
        &[
            (
                "billing_customers",
                "stripe_customer_id organization_id created_at",
            ),
            (
                "billing_subscriptions",
                "organization_id stripe_subscription_id stripe_customer_id status stripe_status \
                 plan_tier currency current_period_start current_period_end billing_cycle_anchor \
                 billing_mode collection_method trial_start trial_end cancel_at \
                 cancel_at_period_end canceled_at ended_at latest_invoice_id \
                 default_payment_method_id metadata livemode stripe_created_at last_event_at \
                 last_event_rank last_event_id tied_event_ids updated_at",
            ),
            (
                "billing_subscription_items",
                "organization_id stripe_subscription_id stripe_subscription_item_id \
                 stripe_price_id stripe_product_id lookup_key usage_type unit_amount \
                 unit_amount_decimal currency recurring_interval recurring_interval_count \
                 quantity current_period_start current_period_end",
            ),
            (
                "billing_subscription_payments",
                "organization_id stripe_subscription_id outcome billing_reason stripe_invoice_id \
                 last_event_at last_event_id",
            ),
            (
                "billing_invoices",
                "organization_id stripe_invoice_id stripe_customer_id stripe_subscription_id \
                 number status billing_reason collection_method currency subtotal_amount \
                 tax_amount total_amount amount_due amount_paid amount_remaining starting_balance \
                 ending_balance attempt_count next_payment_attempt period_start period_end \
                 due_date finalized_at paid_at voided_at hosted_invoice_url invoice_pdf \
                 has_more_items metadata livemode stripe_created_at last_event_at last_event_rank \
                 last_event_id tied_event_ids updated_at",
            ),
            (
                "billing_invoice_items",
                "organization_id stripe_invoice_id stripe_line_item_id position description \
                 amount currency quantity proration stripe_price_id stripe_subscription_id \
                 stripe_subscription_item_id period_start period_end",
            ),
            (
                "billing_charges",
                "organization_id stripe_charge_id stripe_customer_id stripe_invoice_id \
                 stripe_payment_intent_id stripe_payment_method_id status currency amount \
                 amount_captured amount_refunded paid captured refunded disputed failure_code \
                 failure_message outcome_type outcome_network_status outcome_reason \
                 outcome_risk_level outcome_seller_message card_brand card_last4 description \
                 receipt_url metadata livemode stripe_created_at last_event_at last_event_rank \
                 last_event_id tied_event_ids updated_at",
            ),
            (
                "billing_payment_methods",
                "organization_id stripe_payment_method_id stripe_customer_id status type brand \
                 last4 exp_month exp_year funding country metadata livemode stripe_created_at \
                 last_event_at last_event_rank last_event_id tied_event_ids updated_at",
            ),
            (
                "billing_alerts",
                "organization_id kind alert_key resource_type resource_id message occurred_at \
                 created_at",
            ),
            (
                "billing_applied_events",
                "organization_id stripe_event_id event_type resource_id applied_at",
            ),
        ],
    ),
    (
        "20260101090300_webhook_events",
        &[(
            "webhook_events",
            "bucket stripe_event_id event_type api_version livemode account event_created_at \
                 payload received_at processed processed_at outcome organization_id",
        )],
    ),
    (
        "20260101091000_billing_audit_log",
        &[
            (
                "billing_audit_log",
                "organization_id id sequence action actor_type actor_id resource_type resource_id \
                 before_state after_state metadata ip_address user_agent created_at hash",
            ),
            (
                "billing_audit_chain_heads",
                "organization_id last_sequence last_hash",
            ),
        ],
    ),
    (
        "20260101092000_grace_periods",
        &[(
            "grace_periods",
            "organization_id metric period_start period_end quota usage_at_start started_at \
                 expires_at ended_at end_reason",
        )],
    ),
    (
        "20260101093000_webhook_retry",
        &[
            (
                "webhook_dead_letter_queue",
                "bucket stripe_event_id event_type api_version livemode account event_created_at \
                 payload received_at organization_id retry_count error_message attempts \
                 dead_lettered_at",
            ),
            (
                "billing_job_runs",
                "id job started_at finished_at succeeded counters",
            ),
            (
                "webhook_events",
                "retry_count next_retry_at error_message attempts waiting_for_customer_id \
                 lease_id lease_expires_at",
            ),
        ],
    ),
    (
        "20260102090000_access",
        &[
            (
                "organization_members",
                "organization_id user_id role created_at",
            ),
            (
                "user_sessions",
                "token_hash user_id for_organization_id created_at last_used_at expires_at \
                 revoked_at",
            ),
            (
                "api_keys",
                "organization_id id name prefix key_hash scopes created_at expires_at revoked_at \
                 last_used_at",
            ),
            (
                "login_throttles",
                "throttle_key failures last_attempt_at blocked_until succeeded_at",
            ),
            ("users", "password_hash password_changed_at operator"),
        ],
    ),
    (
        "20260102090100_request_idempotency",
        &[(
            "request_idempotency",
            "organization_id idempotency_key fingerprint lease_id lease_expires_at status \
                 headers body created_at expires_at",
        )],
    ),
    (
        "20260102090110_service_keys",
        &[("service_keys", "name key created_at")],
    ),
    (
        "20260102091000_stripe_requests",
        &[(
            "billing_stripe_requests",
            "organization_id id subject operation target_id params context state \
                 stripe_object_id error_message created_at finished_at",
        )],
    ),
    (
        "20260102091100_subscription_previews",
        &[(
            "billing_subscriptions",
            "discounted taxed stripe_test_clock_id ask_again_since",
        )],
    ),
    (
        "20260102091200_trace_context",
        &[("webhook_events", "traceparent")],
    ),
    (
        "20260102092000_usage",
        &[
            (
                "usage_quota_overrides",
                "organization_id metric unlimited quota over_limit updated_at",
            ),
            (
                "usage_events",
                "organization_id event_id metric quantity occurred_at recorded_at period_start \
                 metadata",
            ),
            (
                "usage_totals",
                "organization_id metric period_start period_end total reserved events last_at \
                 last_event_id alerted reported updated_at",
            ),
            (
                "usage_reservations",
                "organization_id id metric period_start quantity reserved_at expires_at",
            ),
            (
                "usage_alerts",
                "organization_id metric period_start threshold id period_end usage quota \
                 raised_at attempts next_attempt_at delivered_at failed_at error_message",
            ),
            (
                "usage_reports",
                "organization_id identifier metric period_start stripe_customer_id event_name \
                 units at created_at attempted_at sent_at error_message",
            ),
        ],
    ),
    (
        "20260103020000_webhook_sources",
        &[
            ("webhook_events", "source"),
            ("webhook_dead_letter_queue", "source"),
            ("webhook_rejections", "reason hour deliveries last_at"),
        ],
    ),
    (
        "20260103030000_other_stripe_events",
        &[
            (
                "billing_disputes",
                "organization_id stripe_dispute_id stripe_charge_id stripe_payment_intent_id \
                 status reason currency amount evidence_due_by metadata livemode \
                 stripe_created_at last_event_at last_event_rank last_event_id tied_event_ids \
                 updated_at",
            ),
            (
                "billing_invoice_payments",
                "organization_id stripe_invoice_payment_id stripe_invoice_id \
                 stripe_payment_intent_id stripe_charge_id status currency amount_paid livemode \
                 stripe_created_at last_event_at last_event_rank last_event_id tied_event_ids \
                 updated_at",
            ),
            (
                "billing_checkout_sessions",
                "organization_id stripe_checkout_session_id stripe_customer_id \
                 stripe_subscription_id stripe_invoice_id stripe_payment_intent_id \
                 client_reference_id mode status payment_status currency total_amount expires_at \
                 metadata livemode stripe_created_at last_event_at last_event_rank last_event_id \
                 tied_event_ids updated_at",
            ),
            (
                "billing_deleted_invoices",
                "organization_id stripe_invoice_id last_event_at last_event_rank last_event_id \
                 tied_event_ids",
            ),
            (
                "webhook_unclaimed_events",
                "organization_id waiting_for stripe_event_id bucket created_at",
            ),
            (
                "billing_customers",
                "deleted_at delinquent currency default_payment_method_id last_event_at \
                 last_event_rank last_event_id tied_event_ids",
            ),
            ("billing_subscriptions", "pending_update has_more_items"),
            ("billing_invoices", "ask_again_since"),
        ],
    ),
    (
        "20260103050000_usage_periods",
        &[("usage_totals", "closed_at reported_late")],
    ),
    (
        "20260103060000_organizations_and_recovery",
        &[
            ("organizations", "external_id email erased_at"),
            ("billing_customers", "linked_at"),
            (
                "billing_stripe_requests",
                "recovery_attempts recovery_error next_recovery_at abandoned_at",
            ),
            (
                "billing_subscriptions",
                "recovery_attempts next_recovery_at",
            ),
        ],
    ),
    (
        "20260103080000_bounded_histories",
        &[
            ("billing_subscriptions", "known_tier"),
            ("billing_applied_events", "event_created_at"),
        ],
    ),
    (
        "20260104010000_dead_letter_sources",
        &[(
            "webhook_dead_letter_sources",
            "bucket stripe_event_id source",
        )],
    ),
    (
        "20260107090000_pending_levels",
        &[(
            "usage_pending_levels",
            "organization_id metric occurred_at event_id period_start quantity",
        )],
    ),
    (
        "20260110030000_usage_prices",
        &[("usage_totals", "billed_by")],
    ),
    (
        "20260112010000_usage_lateness",
        &[("usage_reports", "late refused_at")],
    ),
    (
        "20260113010000_retention",
        &[
            ("webhook_events", "payload_removed_at"),
            ("billing_applied_events", "extract"),
            ("billing_job_totals", "job series total"),
            ("billing_job_leases", "job lease_id lease_expires_at"),
        ],
    ),
];
