-- The quota in force: the plan's, or what an operator set in its place. Every statement
-- that judges usage reads it from here.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE OR REPLACE VIEW effective_usage_quotas WITH (security_invoker = true) AS
  SELECT q.organization_id, q.metric, q.plan_tier, q.plan_interval, q.currency, q.grace_max,
         q.overage_rate,
         CASE WHEN v.metric IS NULL THEN q.quota ELSE v.quota END AS quota,
         coalesce(v.unlimited, q.unlimited) AS unlimited,
         coalesce(o.over_limit, q.over_limit) AS over_limit,
         -- What is let in. While a change to fewer seats is under way, no more than those are.
         CASE WHEN v.metric IS NULL THEN least(q.quota, q.seats_held) ELSE v.quota END
           AS admitted_quota,
         coalesce(o.over_limit, CASE WHEN q.seats_held IS NULL THEN q.over_limit ELSE 'hard' END)
           AS admitted_over_limit,
         v.metric IS NOT NULL AS overridden,
         o.over_limit AS over_limit_override,
         v.updated_at AS overridden_at,
         greatest(q.updated_at, v.updated_at) AS changed_at,
         q.quota AS plan_quota
    FROM public.usage_quotas q
    LEFT JOIN public.usage_quota_overrides v
      ON v.organization_id = q.organization_id AND v.metric = q.metric
   CROSS JOIN LATERAL (
     -- An operator's overage counts for nothing where the plan has no rate, as after a
     -- change of plan: it would be free use.
     SELECT CASE WHEN v.over_limit <> 'overage' OR q.overage_rate IS NOT NULL
                 THEN v.over_limit END AS over_limit) o;
COMMENT ON VIEW effective_usage_quotas IS
  'The quota in force for each metric: the plan''s, or what an operator set in its place.';
REVOKE ALL ON effective_usage_quotas FROM PUBLIC;
GRANT SELECT ON effective_usage_quotas TO billing_app, billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260120030000', 'effective_quotas') ON CONFLICT DO NOTHING;
COMMIT;
