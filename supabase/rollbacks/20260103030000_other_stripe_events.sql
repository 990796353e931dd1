-- Undoes 20260103030000_other_stripe_events.sql. What these tables and columns hold is lost: back
-- them up first. Lines of old invoices that share an id with another are lost, too.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS webhook_unclaimed_events;
DROP TABLE IF EXISTS billing_deleted_invoices;
DROP TABLE IF EXISTS billing_checkout_sessions;
DROP TABLE IF EXISTS billing_invoice_payments;
DROP TABLE IF EXISTS billing_disputes;
DROP INDEX IF EXISTS billing_invoices_stripe_idx;
DROP INDEX IF EXISTS billing_charges_payment_intent_idx;
DROP INDEX IF EXISTS billing_charges_stripe_idx;
DO $$
BEGIN
  IF to_regclass('billing_invoice_items') IS NOT NULL AND EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
     WHERE i.indrelid = 'billing_invoice_items'::regclass AND i.indisprimary AND a.attname = 'position'
  ) THEN
    DELETE FROM billing_invoice_items l USING billing_invoice_items first
     WHERE l.organization_id = first.organization_id AND l.stripe_invoice_id = first.stripe_invoice_id
       AND l.stripe_line_item_id = first.stripe_line_item_id AND l.position > first.position;
    ALTER TABLE billing_invoice_items
      DROP CONSTRAINT billing_invoice_items_pkey,
      ADD CONSTRAINT billing_invoice_items_pkey
        PRIMARY KEY (organization_id, stripe_invoice_id, stripe_line_item_id);
  END IF;
  IF to_regclass('billing_invoices') IS NOT NULL THEN
    REVOKE DELETE ON billing_invoices FROM billing_worker;
  END IF;
END
$$;
DROP INDEX IF EXISTS billing_invoices_ask_again_idx;
ALTER TABLE IF EXISTS billing_invoices DROP COLUMN IF EXISTS ask_again_since;
ALTER TABLE IF EXISTS billing_subscriptions
  DROP COLUMN IF EXISTS has_more_items,
  DROP COLUMN IF EXISTS pending_update;
ALTER TABLE IF EXISTS billing_customers
  DROP COLUMN IF EXISTS tied_event_ids,
  DROP COLUMN IF EXISTS last_event_id,
  DROP COLUMN IF EXISTS last_event_rank,
  DROP COLUMN IF EXISTS last_event_at,
  DROP COLUMN IF EXISTS default_payment_method_id,
  DROP COLUMN IF EXISTS currency,
  DROP COLUMN IF EXISTS delinquent,
  DROP COLUMN IF EXISTS deleted_at;

DELETE FROM billing_schema_migrations WHERE version = '20260103030000';
COMMIT;
