// The rules of the fake: who decides about each command of an account.

import { bonus, adjust, refund } from "./credits.js";
import { applied } from "./decisions.js";
import type { Case, Decision, Of, Single } from "./decisions.js";
import { decideFreezing } from "./freezing.js";
import { capture, extend, release, reserve } from "./holds.js";
import { decideEvent, giveNames, purchase, takeInOne } from "./payments.js";
import { cancel, change, renew } from "./subscriptions.js";
import { countUpload, deduct, record } from "./usage.js";

type Rules = {
  [T in Exclude<Single["type"], "account.open" | "account.import">]: (command: Of<T>, of: Case) => Decision;
};

export const RULES: Rules = {
  "account.settle": (_command, of) => {
    takeInOne(of);
    return applied("account_settled", 0);
  },
  "account.freeze": decideFreezing,
  "account.unfreeze": decideFreezing,
  "usage.deduct": deduct,
  "usage.record": record,
  "usage.free_upload": countUpload,
  "usage.reserve": reserve,
  "usage.extend": extend,
  "usage.settle": capture,
  "usage.release": release,
  "credit.refund": refund,
  "credit.bonus": bonus,
  "credit.adjust": adjust,
  "subscription.change": change,
  "subscription.renew": renew,
  "subscription.cancel": cancel,
  "payment.succeeded": purchase,
  "payment.named": giveNames,
  "payment.refunded": decideEvent,
  "payment.refund_failed": decideEvent,
  "payment.disputed": decideEvent,
  "payment.dispute_closed": decideEvent,
  "payment.failed": decideEvent,
};
