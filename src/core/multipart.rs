//! Uploads in parts: when the parts that have come are the object, and what becomes of those that never will be one.
//!
//! The store keeps what has come until somebody puts it together or throws it away, and bills for it. So a grant for such
//! an upload has a finalizer from before the upload is begun until it is over, and an end at which Valet stops trying.

use jiff::{SignedDuration, Timestamp};

use super::{
    decide::Judge,
    facts::{ArrivedPart, ObjectFact, OpenUpload, StoreFact, UploadFact, UploadsFact},
    lifetime::{LOOK_PATIENCE, Lifetime, add, retry},
    policy::{AbortAccess, Access, Refusal, abort_own, admit},
    status::{Arrival, Situation, condition},
    step::{Assembly, Notice, Read, Step},
};
use crate::api::{Ask, Parts, Progress, Reason, UploadMode, annotation};

/// How long the deletion of a grant waits for a store that does not let its upload be thrown away: long enough for a store
/// that restarts, and short enough for somebody who waits for a namespace to go.
const DELETION_PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// How long a store may show both an upload and the object that it has become.
const SETTLING: SignedDuration = SignedDuration::from_secs(10);

/// How far the store's clock and ours may be apart when it is judged whether an upload is one that we began. What is missed
/// for its sake stays; what would be taken for ours by more of it could be somebody's.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// What the parts that have come amount to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Assembled {
    /// There are more to come.
    Waiting,
    /// They cannot become the object: why, and what to do.
    Flawed(String),
    /// They are the object.
    Whole(Vec<ArrivedPart>),
}

/// What is to be done about an upload while its key is out.
pub(super) enum Gathered {
    /// This.
    Next(Step),
    /// Nothing for now.
    Waiting(Arrival),
    /// It is over, and the object says how it ended.
    Over,
}

/// What is to be done about an upload when its grant is at its end.
// There is one of these a reconcile; a box would save nothing.
#[allow(clippy::large_enum_variant)]
pub(super) enum Cleaning {
    /// This.
    Next(Step),
    /// Nothing before then.
    Wait(Timestamp),
    /// Nothing.
    Done,
}

/// Holds what has come against what is to come. The object ends with its last part, or with the first that is shorter than
/// a part is: then nobody needs to know its size beforehand.
pub(super) fn assemble(parts: &Parts, arrived: &[ArrivedPart]) -> Assembled {
    let (mut whole, mut bytes) = (Vec::new(), 0_i64);
    for part in parts.all() {
        let number = part.number;
        let Some(came) = arrived.iter().find(|came| came.number == number) else {
            return Assembled::Waiting;
        };
        if came.size > part.size.max {
            let why = format!(
                "part {number} has {} bytes instead of at most {}; send it again",
                came.size, part.size.max
            );
            return Assembled::Flawed(why);
        }
        whole.push(came.clone());
        bytes = bytes.saturating_add(came.size);
        let is_short = came.size < parts.part_bytes;
        if number < parts.count() && !is_short {
            continue;
        }
        // Of parts that come side by side, the last may be there before the others.
        let beyond = arrived
            .iter()
            .any(|other| other.number > number && other.number <= parts.count());
        return if beyond {
            Assembled::Flawed(format!(
                "part {number} has {} bytes instead of {}, and there are parts behind it; send it again, or make a new grant",
                came.size, parts.part_bytes
            ))
        } else if bytes < parts.whole.min {
            Assembled::Flawed(format!(
                "part {number} has {} bytes, which would end the object at {bytes} of at least {} bytes; send it again",
                came.size, parts.whole.min
            ))
        } else {
            Assembled::Whole(whole)
        };
    }
    Assembled::Waiting
}

impl Judge<'_> {
    /// Whether the object comes in parts.
    pub(super) fn is_in_parts(&self) -> bool {
        matches!(
            self.g.ask,
            Ask::Upload {
                mode: UploadMode::Multipart,
                ..
            }
        )
    }

    /// The store's name for the upload that the key is for: by the Secret, which is the record, or by the status where the
    /// Secret is gone. Both are as Valet wrote them: the facts have nothing of a record that somebody else has changed.
    pub(super) fn upload(&self) -> Option<&str> {
        if !self.is_in_parts() {
            return None;
        }
        let recorded = self.own_secret().and_then(|s| s.upload_id.as_ref());
        recorded.or(self.g.status.upload_id.as_ref()).map(String::as_str)
    }

    /// While the key is out: looks which parts have come, if it is time, and has them put together when they are all there.
    pub(super) fn gather(&self, access: &Access, is_time: bool) -> Gathered {
        let Some(upload) = self.upload() else {
            return Gathered::Waiting(Arrival::Flawed(format!(
                "Secret {} has lost its {} annotation, so nobody knows where its parts are; delete it, and a new key is made",
                self.g.secret_name(),
                annotation::UPLOAD_ID
            )));
        };
        match &self.f.upload {
            UploadFact::Unread
                if is_time || self.f.completion_refused.is_some() || !matches!(self.f.object, ObjectFact::Unread) =>
            {
                Gathered::Next(Step::Read(Read::Upload(access.clone(), upload.to_owned())))
            }
            // A look that failed says nothing; the next one comes by itself.
            UploadFact::Unread | UploadFact::Unreachable(_) => Gathered::Waiting(Arrival::Unchanged),
            UploadFact::Open(arrived) => match self.assembled(arrived) {
                Assembled::Waiting => Gathered::Waiting(Arrival::NotYet),
                Assembled::Flawed(why) => Gathered::Waiting(Arrival::Flawed(why)),
                Assembled::Whole(parts) => self.complete(access, upload, parts),
            },
            UploadFact::Gone | UploadFact::Aborted { .. } if matches!(self.f.object, ObjectFact::Unread) => {
                Gathered::Next(Step::Read(Read::Object(access.clone())))
            }
            UploadFact::Gone | UploadFact::Aborted { .. } => Gathered::Over,
            UploadFact::Hidden => {
                let why = "the store does not let these credentials list the parts of an upload (s3:ListMultipartUploadParts), so nobody can put them together";
                Gathered::Waiting(Arrival::Unknown(Reason::NotObservable, why.to_owned()))
            }
        }
    }

    fn assembled(&self, arrived: &[ArrivedPart]) -> Assembled {
        match self.g.ask.parts() {
            Some(parts) => assemble(&parts, arrived),
            None => Assembled::Waiting,
        }
    }

    /// All parts are there. A write-once object is looked for first, since not every store knows the condition. If there is
    /// one, the parts were seen once more since: another operator may have put them together a moment ago.
    fn complete(&self, access: &Access, upload: &str, parts: Vec<ArrivedPart>) -> Gathered {
        if self.write_once() {
            match &self.f.object {
                ObjectFact::Unread => return Gathered::Next(Step::Read(Read::Object(access.clone()))),
                ObjectFact::Present { modified_at, .. } if self.is_settling(*modified_at) => {
                    return Gathered::Waiting(Arrival::Unchanged);
                }
                ObjectFact::Present { object, .. } => return Gathered::Next(self.exists_already(object)),
                ObjectFact::Absent | ObjectFact::Hidden | ObjectFact::ClockSkewed(_) | ObjectFact::Unreachable(_) => {
                }
            }
        }
        match &self.f.completion_refused {
            Some(why) => Gathered::Waiting(Arrival::Flawed(format!(
                "all parts have come, and the store does not put them together: {why}"
            ))),
            None => Gathered::Next(Step::Complete(
                access.clone(),
                Assembly {
                    upload: upload.to_owned(),
                    parts,
                    write_once: self.write_once(),
                },
            )),
        }
    }

    /// Whether an object came so lately that the store may still be putting it together of this very upload, for another
    /// operator: not every store does both at once. With the key's time over, nobody waits for that.
    fn is_settling(&self, modified_at: Option<Timestamp>) -> bool {
        let is_fresh = modified_at.is_some_and(|t| self.now < add(t, SETTLING));
        is_fresh && self.key().is_some_and(|key| self.end(key) > self.now)
    }

    /// The key's time is over: what has come by now is the object, if the rules and the spec still allow it, or nothing.
    pub(super) fn last_parts(&self, key: Option<Lifetime>, said: &str) -> Option<Step> {
        let upload = self.upload()?;
        match (&self.f.upload, &self.f.store) {
            (UploadFact::Unread, StoreFact::Unread) => Some(Step::Read(Read::Store)),
            (UploadFact::Unread, StoreFact::Usable(_)) => match self.access() {
                Ok(access) => Some(Step::Read(Read::Upload(access, upload.to_owned()))),
                Err(_) => self.abort_own().map(Step::Abort),
            },
            (UploadFact::Open(arrived), store) => {
                let admitted = match store {
                    StoreFact::Usable(store) if !self.g.terms.is_suspended() => admit(self.g, store).ok(),
                    _ => None,
                };
                let gathered = match (self.assembled(arrived), admitted) {
                    (Assembled::Whole(parts), Some(access)) => self.complete(&access, upload, parts),
                    _ => Gathered::Over,
                };
                match (gathered, self.access()) {
                    (Gathered::Next(step), _) => Some(step),
                    (Gathered::Waiting(_) | Gathered::Over, Ok(access)) => Some(Step::Abort(access.to_abort(upload))),
                    (Gathered::Waiting(_) | Gathered::Over, Err(_)) => self.abort_own().map(Step::Abort),
                }
            }
            (UploadFact::Unreachable(why), _) => {
                let end = self.over_at(key).unwrap_or(self.now);
                if self.now >= add(end, LOOK_PATIENCE) {
                    return None;
                }
                let message = format!(
                    "{said}; waiting for a last look at the parts of the upload: {}",
                    self.unreachable(why)
                );
                let situation = Situation::of(Reason::StoreUnreachable, message, key);
                Some(self.settle(&situation, Some(self.retry())))
            }
            // How it ended, the object says; or that nobody knows it, the store.
            (UploadFact::Unread | UploadFact::Gone | UploadFact::Aborted { .. } | UploadFact::Hidden, _) => None,
        }
    }

    /// What was uploaded by a key whose time is over, if that is no object.
    pub(super) fn what_came(&self) -> String {
        let (UploadFact::Aborted { parts }, Some(all)) = (&self.f.upload, self.g.ask.parts()) else {
            return "nothing was uploaded".to_owned();
        };
        match (&self.f.completion_refused, parts) {
            (Some(why), _) => format!("its parts were thrown away, since the store did not put them together: {why}"),
            (None, 0) => "nothing was uploaded".to_owned(),
            (None, parts) => format!(
                "the {parts} of at most {} parts that had come were thrown away: the object was not whole",
                all.count()
            ),
        }
    }

    /// The upload is gone and nothing came of it: its URLs are of no use.
    pub(super) fn aborted(&self) -> Step {
        let message = format!(
            "{} does not know the upload any more, and no object came of it: somebody aborted it, or a lifecycle rule of the bucket did; make a new grant",
            self.g.terms.store_ref
        );
        let situation = Situation {
            arrival: Arrival::NotYet,
            finished: true,
            ..Situation::of(Reason::UploadAborted, message, self.key())
        };
        self.settle(&situation, None)
    }

    /// The grant is being deleted. The garbage collector takes the Secret, whose owner the grant is; but not while anybody
    /// holds the grant, we for the sake of its upload or others for theirs.
    pub(super) fn leave(&self) -> Step {
        if let Some(step) = self.withdraw() {
            return step;
        }
        if !self.g.held {
            return self.deleting();
        }
        match self.clean(self.g.deleted_at.unwrap_or(self.now)) {
            Cleaning::Next(step) => step,
            Cleaning::Wait(again) => Step::Rest { until: Some(again) },
            Cleaning::Done => Step::Rest { until: None },
        }
    }

    /// Others hold the grant: its status promises no Secret any more.
    fn deleting(&self) -> Step {
        let is_said = condition(&self.g.status, "Ready").is_some_and(|c| c.reason == Reason::Deleting.as_str());
        if self.g.status.binding.is_none() && !is_said {
            return Step::Rest { until: None };
        }
        let key = self.key();
        let copy = match self.copies_until(key) {
            Some(end) if end > self.now => format!(", but a copy of it works until {end}"),
            _ => String::new(),
        };
        let message = format!(
            "the grant is being deleted, and finalizers hold it (metadata.finalizers): its key was withdrawn{copy}"
        );
        self.settle(&Situation::of(Reason::Deleting, message, key), None)
    }

    /// Nothing of a grant that was refused for good after its upload was begun is left in the store, if no key is out.
    pub(super) fn abandon_upload(&self, reason: Reason) -> Option<Step> {
        let is_out = self.copies_until(self.key()).is_some_and(|end| end > self.now);
        let is_begun = matches!(
            self.f.upload,
            UploadFact::Unread | UploadFact::Open(_) | UploadFact::Hidden
        );
        if is_out || !is_begun || reason.progress() != Progress::Stalled {
            return None;
        }
        self.abort_own().map(Step::Abort)
    }

    /// Leaves no upload of this grant in the store, and then no finalizer on the grant. `since` is the grant's end, from
    /// which the patience with a store in trouble is counted.
    pub(super) fn clean(&self, since: Timestamp) -> Cleaning {
        if !self.g.held {
            return Cleaning::Done;
        }
        // The finalizer is no evidence: anybody can write one, on a grant of any mode.
        if !self.is_in_parts() {
            return Cleaning::Next(Step::Release { notice: None });
        }
        if matches!(self.f.store, StoreFact::Unread) {
            return Cleaning::Next(Step::Read(Read::Store));
        }
        let access = match self.access() {
            Ok(access) => access,
            Err(refusal) => return self.clean_without_access(since, &refusal),
        };
        let trouble = match (self.upload(), &self.f.upload) {
            (Some(upload), UploadFact::Unread) => {
                return Cleaning::Next(Step::Read(Read::Upload(access, upload.to_owned())));
            }
            // Who may not see it may perhaps abort it all the same.
            (Some(upload), UploadFact::Open(_) | UploadFact::Hidden) => {
                return Cleaning::Next(Step::Abort(access.to_abort(upload)));
            }
            (Some(_), UploadFact::Unreachable(why)) => Some(why),
            (Some(_), UploadFact::Gone | UploadFact::Aborted { .. }) | (None, _) => None,
        };
        let trouble = match (trouble, &self.f.uploads) {
            (Some(why), _) | (None, UploadsFact::Unreachable(why)) => why,
            (None, UploadsFact::Unread) => return Cleaning::Next(Step::Read(Read::Uploads(access))),
            (None, UploadsFact::Listed { uploads, contested }) => {
                let orphans: Vec<_> = uploads
                    .iter()
                    .filter(|upload| !contested && self.is_stray(upload))
                    .map(|upload| access.to_abort(&upload.id))
                    .collect();
                return Cleaning::Next(if orphans.is_empty() {
                    Step::Release { notice: None }
                } else {
                    Step::AbortOrphans(orphans)
                });
            }
            (None, UploadsFact::Hidden) => return Cleaning::Next(Step::Release { notice: None }),
        };
        self.wait_or_release(since, trouble)
    }

    /// The rules do not allow the grant, or are not known since the store is gone: then nothing is asked of the store. Only
    /// the upload that Valet itself began for the grant is aborted.
    fn clean_without_access(&self, since: Timestamp, refusal: &Refusal) -> Cleaning {
        match (&self.f.upload, self.abort_own()) {
            (UploadFact::Unread | UploadFact::Open(_) | UploadFact::Hidden, Some(own)) => {
                Cleaning::Next(Step::Abort(own))
            }
            (UploadFact::Unreachable(why), Some(_)) => self.wait_or_release(since, why),
            (UploadFact::Gone | UploadFact::Aborted { .. }, _) => Cleaning::Next(Step::Release { notice: None }),
            // Nothing is recorded that could be left there.
            (_, None) if self.upload().is_none() => Cleaning::Next(Step::Release { notice: None }),
            // The store may come back.
            (_, None) if self.forbidden().is_none() && !matches!(self.f.store, StoreFact::Usable(_)) => {
                self.wait_or_release(since, "the store was deleted, or cannot be used")
            }
            (_, None) => Cleaning::Next(self.leave_parts(&format!(
                "the store was not asked, since its rules do not allow it: {}",
                refusal.message
            ))),
        }
    }

    /// The right to abort the upload that Valet began for this very grant, if there is evidence of one that nobody else can
    /// write.
    fn abort_own(&self) -> Option<AbortAccess> {
        // What the Secret and the status say is believed only as Valet wrote it.
        let own = self.f.own_upload.as_deref().filter(|_| self.is_in_parts());
        let own = own.or_else(|| self.upload())?;
        abort_own(self.g, own)
    }

    /// The store does not let the upload be aborted: tries again for a while, and then leaves it there.
    fn wait_or_release(&self, since: Timestamp, trouble: &str) -> Cleaning {
        let patience = if self.g.deleting {
            DELETION_PATIENCE
        } else {
            LOOK_PATIENCE
        };
        // Of a store that is gone nobody can ask anything.
        let is_hopeless = self.g.deleting && matches!(self.f.store, StoreFact::Missing);
        if !is_hopeless && self.now < add(since, patience) {
            return Cleaning::Wait(retry(Some(since), self.now));
        }
        Cleaning::Next(self.leave_parts(trouble))
    }

    fn leave_parts(&self, why: &str) -> Step {
        let message = format!(
            "the upload in parts of {} in {} could not be aborted, and Valet does not try any more: {why}; parts that have come stay in the bucket, and are billed, until somebody aborts the upload or a lifecycle rule does",
            self.g.terms.key, self.g.terms.store_ref
        );
        Step::Release {
            notice: Some(Notice {
                reason: Reason::PartsLeft,
                message,
            }),
        }
    }

    /// Whether an upload of the same key is one that we began and could not record, since we died just then. Nobody was
    /// told of it, so no part of it can ever have come; and it began between the grant's creation and its first key.
    fn is_stray(&self, upload: &OpenUpload) -> bool {
        let first = self.g.created.map(|created| add(created, -SKEW));
        let last = add(self.key().map_or(self.now, |key| key.issued_at), SKEW);
        let is_in_time = upload
            .begun
            .is_some_and(|begun| first.is_some_and(|first| first <= begun) && begun <= last);
        !upload.has_parts && is_in_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::LengthRange;

    const MIB: i64 = 1 << 20;

    fn assembled(range: (i64, i64), sizes: &[(i64, i64)]) -> Assembled {
        let parts = Parts {
            part_bytes: 5 * MIB,
            whole: LengthRange {
                min: range.0,
                max: range.1,
            },
        };
        assemble(&parts, &came(sizes))
    }

    fn came(sizes: &[(i64, i64)]) -> Vec<ArrivedPart> {
        let part = |(number, size): &(i64, i64)| ArrivedPart {
            number: *number,
            size: *size,
            e_tag: format!("\"{number}\""),
        };
        sizes.iter().map(part).collect()
    }

    fn flaw(range: (i64, i64), sizes: &[(i64, i64)]) -> String {
        match assembled(range, sizes) {
            Assembled::Flawed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_object_of_a_known_size() {
        let exact = (12 * MIB, 12 * MIB);
        let all = [(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB)];
        for some in [&all[..0], &all[..1], &all[..2], &all[1..]] {
            assert_eq!(assembled(exact, some), Assembled::Waiting, "{some:?}");
        }
        assert_eq!(assembled(exact, &all), Assembled::Whole(came(&all)));
        // In whatever order they are told, and whatever else somebody has put there.
        let others = [(4, 9), (3, 2 * MIB), (2, 5 * MIB), (1, 5 * MIB)];
        assert_eq!(assembled(exact, &others), Assembled::Whole(came(&all)));
        assert_eq!(
            assembled((5 * MIB, 5 * MIB), &all[..1]),
            Assembled::Whole(came(&all[..1]))
        );
        assert_eq!(assembled((0, 0), &[(1, 0)]), Assembled::Whole(came(&[(1, 0)])));
        for (sizes, says) in [
            (
                &[(1, 5 * MIB + 1)][..],
                "part 1 has 5242881 bytes instead of at most 5242880",
            ),
            (
                &[(1, 5 * MIB - 1)],
                "part 1 has 5242879 bytes, which would end the object at 5242879",
            ),
            (
                &[(1, 5 * MIB - 1), (2, 5 * MIB)],
                "part 1 has 5242879 bytes instead of 5242880, and there are parts behind it",
            ),
            (
                &[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB + 1)],
                "part 3 has 2097153 bytes instead of at most 2097152",
            ),
            (
                &[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB - 1)],
                "part 3 has 2097151 bytes, which would end the object at",
            ),
        ] {
            let why = flaw(exact, sizes);
            assert!(why.starts_with(says), "{why}");
        }
    }

    #[test]
    fn an_object_of_a_range_of_sizes() {
        let range = (6 * MIB, 12 * MIB);
        let whole =
            |sizes: &[(i64, i64)]| assert_eq!(assembled(range, sizes), Assembled::Whole(came(sizes)), "{sizes:?}");
        // The last is shorter than the others, if only by being empty; or it is the last that there can be.
        whole(&[(1, 5 * MIB), (2, MIB)]);
        whole(&[(1, 5 * MIB), (2, 5 * MIB), (3, 0)]);
        whole(&[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB)]);
        assert_eq!(assembled(range, &[(1, 5 * MIB), (2, 5 * MIB)]), Assembled::Waiting);
        assert!(flaw(range, &[(1, 5 * MIB), (2, MIB - 1)]).contains("at 6291455 of at least 6291456 bytes"));
        assert!(flaw(range, &[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB + 1)]).contains("at most 2097152"));
        assert!(flaw(range, &[(1, 5 * MIB), (2, MIB), (3, 0)]).contains("there are parts behind it"));
    }
}
