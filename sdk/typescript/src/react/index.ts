export { BillingClient, type BillingClientOptions, type BillingSnapshot } from "./client.js";
export {
  GraceBanner,
  PlanPicker,
  UsageMeter,
  type GraceBannerProps,
  type PlanChoice,
  type PlanPickerProps,
  type UsageMeterProps,
} from "./components.js";
export {
  BillingProvider,
  useBilling,
  useBillingClient,
  usePreview,
  type BillingProviderProps,
  type FeatureValue,
  type UseBilling,
  type UsePreview,
} from "./hooks.js";
export { formatAmount } from "./money.js";
