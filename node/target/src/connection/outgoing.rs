//! From answers to bytes: response capsules, data for the host, R2T, the end of a connection.
//!
//! Sources: TCP sections 3.3.1.2, 3.3.2 and 3.5; Base section 4.2.

use fathom_nvme::{
    Completion, Status,
    completion::SQHD_FLOW_CONTROL_DISABLED,
    tcp::{
        C2hData, CapsuleResponse, DataDigest, HEADER_MAX, R2t, Receiver, TERMINATE_MAX, Violation,
    },
};
use fathom_units::{Cid, Qid};

use super::{Action, Answer, Connection, Slot, TAIL_MAX, Transmission};

impl Connection {
    /// Answers a command without data.
    pub(super) fn respond(&mut self, cid: Cid, status: Status, result: u64) {
        let mut head = [0; HEADER_MAX];
        let completion = self.completion(cid, status, result);
        let length = CapsuleResponse::encode(&completion, &self.outbound, &mut head);
        self.send_head(head, length);
    }

    /// Answers the Connect: SQHD says whether there is SQ flow control (Base 6.3).
    pub(super) fn answer_connect(&mut self, completion: Completion) {
        let without = completion.status.is_success() && self.queue.without_flow_control;
        let sqhd = if without { SQHD_FLOW_CONTROL_DISABLED } else { self.sqhd() };
        let mut head = [0; HEADER_MAX];
        let completion = Completion { sqhd, ..completion };
        let length = CapsuleResponse::encode(&completion, &self.outbound, &mut head);
        self.send_head(head, length);
    }

    /// Answers a read: the memory of `slot` and then the response, in one go. `data` is what that
    /// memory holds.
    pub(super) fn respond_with_memory(&mut self, cid: Cid, slot: Slot, data: &[u8]) {
        let mut head = [0; HEADER_MAX];
        let mut tail = [0; TAIL_MAX];
        let success = self.queue.without_flow_control;
        let pdu = C2hData { cid, offset: 0, length: length(data), last: true, success };
        let head_length = pdu.encode(&self.outbound, &mut head);
        let mut tail_length = 0;
        if self.outbound.digests.data {
            let mut digest = DataDigest::new();
            digest.update(data);
            let digest = digest.to_bytes();
            tail[..digest.len()].copy_from_slice(&digest);
            tail_length = digest.len();
        }
        if !success {
            let mut response = [0; HEADER_MAX];
            let completion = self.completion(cid, Status::SUCCESS, 0);
            let length = CapsuleResponse::encode(&completion, &self.outbound, &mut response);
            tail[tail_length..tail_length + length].copy_from_slice(&response[..length]);
            tail_length += length;
        }
        self.actions.push_back(Action::Send(Transmission {
            head,
            head_length: short(head_length),
            data: Some((slot, data.len())),
            tail,
            tail_length: short(tail_length),
        }));
    }

    /// Answers a command of the admin queue. `room` is what the host has for data.
    pub(super) fn respond_with_answer(&mut self, cid: Cid, room: u32, answer: &Answer) {
        let Answer { status, result, data } = answer;
        if data.is_empty() || !status.is_success() {
            return self.respond(cid, *status, *result);
        }
        if data.len() > room as usize {
            return self.respond(cid, Status::DATA_SGL_LENGTH_INVALID.do_not_retry(), 0);
        }
        let mut header = [0; HEADER_MAX];
        let pdu = C2hData { cid, offset: 0, length: length(data), last: true, success: false };
        let head_length = pdu.encode(&self.outbound, &mut header);
        let mut bytes = header[..head_length].to_vec();
        bytes.extend_from_slice(data);
        if self.outbound.digests.data {
            let mut digest = DataDigest::new();
            digest.update(data);
            bytes.extend_from_slice(&digest.to_bytes());
        }
        let completion = self.completion(cid, *status, *result);
        let length = CapsuleResponse::encode(&completion, &self.outbound, &mut header);
        bytes.extend_from_slice(&header[..length]);
        self.actions.push_back(Action::SendBytes(bytes));
    }

    /// Asks for all data of a command at once; its slot is the transfer tag.
    pub(super) fn send_r2t(&mut self, cid: Cid, slot: Slot, length: u32) {
        let mut head = [0; HEADER_MAX];
        let pdu = R2t { cid, transfer_tag: slot.0, offset: 0, length };
        let length = pdu.encode(&self.outbound, &mut head);
        self.send_head(head, length);
    }

    /// Tells the host what it did wrong (TCP 3.5).
    pub(super) fn send_termination(&mut self, violation: Violation, header: &[u8]) {
        let mut pdu = [0; TERMINATE_MAX];
        let length = violation.terminate().encode(Receiver::Host, header, &mut pdu);
        self.actions.push_back(Action::SendBytes(pdu[..length].to_vec()));
    }

    fn send_head(&mut self, head: [u8; HEADER_MAX], length: usize) {
        self.actions.push_back(Action::Send(Transmission {
            head,
            head_length: short(length),
            data: None,
            tail: [0; TAIL_MAX],
            tail_length: 0,
        }));
    }

    fn completion(&self, cid: Cid, status: Status, result: u64) -> Completion {
        Completion { result, sqhd: self.sqhd(), sqid: Qid::ADMIN, cid, status }
    }

    /// How far the submission queue has been consumed; reserved without flow control.
    fn sqhd(&self) -> u16 {
        if self.queue.without_flow_control {
            return 0;
        }
        u16::try_from(self.queue.head).expect("a queue has at most 65,536 entries")
    }
}

fn length(data: &[u8]) -> u32 {
    u32::try_from(data.len()).expect("data of a command is limited")
}

fn short(length: usize) -> u8 {
    u8::try_from(length).expect("a header is short")
}
