// What components ask for.

import { createContext, createElement, useCallback, useContext, useEffect, useRef, useState, useSyncExternalStore } from "react";
import type { ReactNode } from "react";

import { BillingError } from "../errors.js";
import type { OrganizationState, Preview, PreviewRequest } from "../types.js";
import { BillingClient, type BillingClientOptions, type BillingSnapshot } from "./client.js";

const Context = createContext<BillingClient | null>(null);

export interface BillingProviderProps extends BillingClientOptions {
  /** One that was made outside; the options then are its own. */
  client?: BillingClient;
  children?: ReactNode;
}

export function BillingProvider({ client, children, ...options }: BillingProviderProps): ReactNode {
  const [own] = useState(() => client ?? new BillingClient(options));
  return createElement(Context.Provider, { value: client ?? own }, children);
}

export function useBillingClient(): BillingClient {
  const client = useContext(Context);
  if (!client) throw new Error("useBilling is used outside of <BillingProvider>");
  return client;
}

export type FeatureValue = OrganizationState["features"][string];

export interface UseBilling extends BillingSnapshot {
  client: BillingClient;
  refresh: () => Promise<void>;
  /** What the customer has of a feature; false for one that nobody knows. */
  feature: (name: string) => FeatureValue;
}

export function useBilling(): UseBilling {
  const client = useBillingClient();
  const snapshot = useSyncExternalStore(client.subscribe, client.getSnapshot, client.getSnapshot);
  const refresh = useCallback(() => client.refresh(), [client]);
  const features = snapshot.state?.features;
  const feature = useCallback((name: string) => features?.[name] ?? false, [features]);
  return { ...snapshot, client, refresh, feature };
}

export interface UsePreview {
  preview: Preview | null;
  loading: boolean;
  error: BillingError | null;
  /** What it shows holds no longer: `refresh` asks again. */
  expired: boolean;
  refresh: () => void;
}

const NOTHING = { preview: null, loading: false, error: null, expired: false };

/** What a change would cost; `null` asks for nothing. */
export function usePreview(request: PreviewRequest | null): UsePreview {
  const client = useBillingClient();
  const [round, setRound] = useState(0);
  const [found, setFound] = useState<Omit<UsePreview, "refresh">>(NOTHING);
  // By what it says, so that an object made anew by each render asks once.
  const key = request && JSON.stringify(request);
  const latest = useRef(request);
  latest.current = request;
  useEffect(() => {
    const asked = latest.current;
    if (!asked) return setFound(NOTHING);
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    setFound({ ...NOTHING, loading: true });
    client.preview(asked, stop.signal).then(
      (preview) => {
        if (stop.signal.aborted) return;
        setFound({ ...NOTHING, preview });
        const left = Date.parse(preview.previewTokenExpiresAt) - Date.now();
        timer = setTimeout(() => setFound({ ...NOTHING, preview, expired: true }), Math.min(Math.max(left, 0), 2 ** 31 - 1));
      },
      (error: unknown) => {
        if (stop.signal.aborted) return;
        const problem = error instanceof BillingError ? error : undefined;
        const known = problem ?? new BillingError({ code: "unexpected", status: 0, detail: String(error), cause: error });
        setFound({ ...NOTHING, error: known });
      },
    );
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [client, key, round]);
  const refresh = useCallback(() => setRound((before) => before + 1), []);
  return { ...found, refresh };
}
